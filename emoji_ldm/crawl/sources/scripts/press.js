// Presses the button that most likely shows more of the listing; returns its name, or null if there is none.
// Arguments: patterns of words, names of buttons that have shown nothing.
"use strict";
const [words, useless] = arguments;
const MORE = new RegExp(words.more, "i"), NEXT = new RegExp(words.next, "i"), OTHER = new RegExp(words.other, "i");
const clean = (text) => (text || "").replace(/\s+/g, " ").trim();
const found = [];
const add = (root) => {
  for (const element of root.querySelectorAll("*")) {
    if (element.shadowRoot) add(element.shadowRoot);
    if (isButton(element)) found.push(element);
  }
};
const isButton = (element) => {
  const tag = element.localName, href = element.getAttribute("href");
  if (tag === "a") return href === null || href === "" || href.startsWith("#") || href.startsWith("javascript:");
  if (tag === "input") return element.type === "button";
  // The button of a form would send it, and leave the page.
  if (tag === "button") return element.type !== "submit" || !element.form;
  return element.getAttribute("role") === "button" || isPlainButton(element);
};
// An element without any role that asks to be pressed, and looks as if it could be.
const isPlainButton = (element) => element.childElementCount <= 2 && element.textContent.length <= 60
  && MORE.test(textOf(element)) && !element.closest("a, button, label, summary, form, nav, header")
  && (element.hasAttribute("onclick") || getComputedStyle(element).cursor === "pointer");
const isUsable = (element) => !element.disabled && element.getAttribute("aria-disabled") !== "true"
  && element.checkVisibility() && element.target !== "_blank" && !element.closest("[role=dialog], dialog");
const textOf = (element) => clean(element.textContent || element.value);
const labelOf = (element) => clean(element.getAttribute("aria-label") || element.title);
const nameOf = (element) => `${element.localName} ${textOf(element) || labelOf(element)}`.replace(/\d+/g, "#");
const isNumber = (element) => /^\d{1,5}$/.test(textOf(element));
const isCurrent = (element) => element.disabled || /true|page/.test(element.getAttribute("aria-current") || "")
  || element.getAttribute("aria-selected") === "true" || /(^|[-_ ])(active|current|selected)($|[-_ ])/.test(element.className);

add(document);
const says = (pattern) => found.find((element) => {
  const text = textOf(element), label = labelOf(element);
  return text.length <= 40 && (pattern.test(text) || pattern.test(label)) && !OTHER.test(`${text} ${label}`)
    && isUsable(element) && !useless.includes(nameOf(element));
});
const numbered = () => {
  const numbers = found.filter((element) => isNumber(element));
  const current = numbers.find(isCurrent);
  const wanted = current && numbers.find((element) => Number(textOf(element)) === Number(textOf(current)) + 1);
  return wanted && isUsable(wanted) && !useless.includes(nameOf(wanted)) ? wanted : null;
};
const chosen = says(MORE) || says(NEXT) || numbered();
if (!chosen) return null;
chosen.scrollIntoView({ block: "center", behavior: "instant" });
chosen.click();
window.__emojiCrawl?.hold();
return nameOf(chosen);
