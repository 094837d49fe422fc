"use strict";
// Tiles come late and by script, as on the sites that this gallery stands in for.
const grid = document.querySelector(".{{ c.grid }}");

function box(className, ...children) {
  const div = document.createElement("div");
  div.className = className;
  div.append(...children);
  return div;
}

function tile(item) {
  const image = document.createElement("img");
  Object.assign(image, { src: item.src, alt: item.title, title: item.title, width: 96, height: 96 });
  image.addEventListener("error", () => { image.style.opacity = 0.25; });
  const frame = box("{{ c.frame }}", image);
  return box("{{ c.tile }}", box("{{ c.card }} text-center", frame, box("{{ c.name }}", item.title)));
}

function note(text) {
  const paragraph = document.createElement("p");
  paragraph.className = "{{ c.note }}";
  paragraph.setAttribute("role", "status");
  paragraph.textContent = text;
  grid.replaceChildren(paragraph);
}

async function fill() {
  const { tag, page } = grid.dataset;
  const answer = await fetch(`/api/emoji/${encodeURIComponent(tag)}?page=${page}`);
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const { items } = await answer.json();
  if (items.length) grid.replaceChildren(...items.map(tile));
  else note("No emoji on this page.");
}

setTimeout(() => fill().catch((error) => note(`The emoji could not be loaded (${error.message}). Reload the page to try again.`)), 150);
