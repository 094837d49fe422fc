// One look at the page: its state, and its tiles as [{src, title, position}]. arguments[0] is the profile.
"use strict";
const profile = arguments[0];
const FURNITURE = "nav, aside, dialog, [role=navigation], [role=complementary], [role=dialog]";
const FRAME = "header, footer, [role=banner], [role=contentinfo]"; // only outside of main; inside, tiles may have headers

const main = document.querySelector(profile.content || "main, [role=main]");
const root = main || document.body;
const web = (address) => /^https?:/.test(address);

function sourceOf(image) {
  // Lazy pages put a data: placeholder in src and the address beside it.
  const lazy = image.dataset.src || (image.srcset || image.dataset.srcset || "").split(",").pop().trim().split(/\s+/)[0];
  for (const address of [image.src, lazy && new URL(lazy, document.baseURI).href]) {
    if (address && web(address)) return address.split("#")[0];
  }
  return "";
}

function titleOf(tile, image) {
  const named = profile.title && tile.querySelector(profile.title);
  const inner = tile.querySelector("[title], [aria-label]");
  const candidates = [
    named && named.textContent, image.title, image.alt, tile.title, tile.getAttribute("aria-label"),
    inner && (inner.title || inner.getAttribute("aria-label")), tile.textContent,
  ];
  const title = candidates.find((text) => text && text.trim());
  return title ? title.trim().replace(/\s+/g, " ").slice(0, 500) : "";
}

const imagesIn = (element) => element.getElementsByTagName("img").length;
const outside = (image) => image.closest(FURNITURE) || (!main && image.closest(FRAME));
const seen = (tile, image) => ({ tile, src: sourceOf(image), title: titleOf(tile, image) });

// The largest element around an image that holds no other image.
function tileOf(image) {
  let tile = image;
  while (tile.parentElement && tile.parentElement !== root && imagesIn(tile.parentElement) === 1) tile = tile.parentElement;
  return tile;
}

function depthOf(element) {
  let depth = 0;
  for (let node = element; node && node !== root; node = node.parentElement) depth += 1;
  return depth;
}

// Where a tile stands. Class names are compared within this one page only: rows of a grid share theirs, a side panel does not.
function placeOf(tile) {
  const steps = [tile.tagName];
  for (let node = tile.parentElement; node && node !== root; node = node.parentElement) {
    steps.push(`${node.tagName}.${node.className}`);
  }
  return steps.join("<");
}

function byStructure() {
  const groups = new Map();
  for (const image of root ? root.getElementsByTagName("img") : []) {
    const found = seen(tileOf(image), image);
    if (outside(image) || !found.src || !found.title) continue;
    const place = placeOf(found.tile);
    groups.set(place, [...(groups.get(place) || []), found]);
  }
  const largest = [...groups.values()].reduce((best, group) => (group.length > best.length ? group : best), []);
  return largest.length ? alike(largest[0].tile) : [];
}

// All tiles that stand where this one stands; a row with one tile left was taken for a tile itself until now.
function alike(example) {
  const [place, depth] = [placeOf(example), depthOf(example)];
  const found = [];
  for (const image of root.getElementsByTagName("img")) {
    let tile = image;
    for (let up = depthOf(image) - depth; up > 0; up -= 1) tile = tile.parentElement;
    if (placeOf(tile) === place && !outside(image) && imagesIn(tile) <= 1) found.push(seen(tile, image));
  }
  return found.filter((one) => one.src && one.title);
}

function bySelectors() {
  const found = [];
  for (const tile of profile.tile ? document.querySelectorAll(profile.tile) : []) {
    const image = tile.matches(profile.image) ? tile : tile.querySelector(profile.image);
    if (image && sourceOf(image)) found.push(seen(tile, image));
  }
  return found;
}

const selected = bySelectors();
const tiles = (selected.length ? selected : byStructure()).map(({ src, title }, position) => ({ src, title, position }));
const watch = window.__emojiCrawl || { pending: 0, changed: 0 };
const [navigation] = performance.getEntriesByType("navigation");
return {
  tiles,
  complete: document.readyState === "complete",
  pending: watch.pending,
  quiet_s: (performance.now() - watch.changed) / 1000,
  error: location.protocol === "chrome-error:",
  status: (navigation && navigation.responseStatus) || 0,
};
