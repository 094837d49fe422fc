// Scrolls the window and all boxes that hold pictures: to the "end", to the "top", or on by one "step"; "" only looks.
// Returns whether anything moved, and how high all of it is.
"use strict";
const [mode] = arguments;
const boxes = [document.scrollingElement].filter(Boolean);
const add = (root) => {
  for (const element of root.querySelectorAll("*")) {
    if (element.shadowRoot) add(element.shadowRoot);
    if (element.scrollHeight > element.clientHeight + 40 && element.clientHeight >= 150
        && element !== document.scrollingElement && element !== document.body
        && /auto|scroll|overlay/.test(getComputedStyle(element).overflowY)) boxes.push(element);
  }
};
add(document);
let moved = false, height = 0;
for (const box of boxes) {
  const before = box.scrollTop, view = box === document.scrollingElement ? innerHeight : box.clientHeight;
  if (!mode) {
    height += box.scrollHeight;
    continue;
  }
  const goal = mode === "end" ? box.scrollHeight : mode === "top" ? 0 : before + Math.max(100, view * 0.75);
  box.scrollTo({ top: goal, behavior: "instant" });
  moved ||= Math.abs(box.scrollTop - before) > 1;
  height += box.scrollHeight;
}
// A page that fits into the window has nothing to scroll; in a smaller window it would load more.
if (mode === "end" && !moved) window.dispatchEvent(new Event("scroll"));
if (mode) window.__emojiCrawl?.hold();
return { moved, height };
