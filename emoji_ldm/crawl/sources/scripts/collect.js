// Returns everything that may be a picture of the page, with the elements around it, as rows (see extract/page_tree.py).
// Arguments: the profile's selectors, patterns of words on links to other pages, the signature of the previous call.
// Walks the composed tree: the document, open shadow roots, frames of the same origin. Returns null if no picture has
// changed since the previous call.
"use strict";
const [selectors, words, previous] = arguments;
const MAX_ELEMENTS = 200000, MAX_IMAGES = 20000, MAX_TEXT = 300, MAX_SVG = 100000;
const SKIPPED = new Set(["script", "style", "template", "noscript", "head", "meta", "link", "object", "video", "audio"]);
const HEADINGS = new Set(["h1", "h2", "h3", "h4", "h5", "h6"]);
const NAMED = ["id", "role", "title", "aria-label", "href", "rel", "itemprop", "itemtype"];
const PLAIN_TEXT = new Set(["option", "label", "textarea", "select"]);
const PAGER = new RegExp(words.pager, "i"), PAGE_ADDRESS = new RegExp(words.address, "i");
const elements = [], parents = [], flags = [], texts = [], images = [], links = [], bases = [];
const backgrounds = new Map();
let order = 0, base = 0, imageCount = 0;

const clean = (text) => (text || "").replace(/\s+/g, " ").trim();
const matching = (root, selector) => new Set(selector ? root.querySelectorAll(selector) : []);

const dataOf = (element) => {
  const found = {};
  for (const { name, value } of element.attributes) {
    if (name.startsWith("data-") && value.length < 4000 && /[/.,]/.test(value)) found[name] = value;
  }
  return found;
};

const labelOf = (element) => {
  const ids = element.getAttribute("aria-labelledby");
  if (!ids) return "";
  return clean(ids.split(/\s+/).map((id) => element.getRootNode().getElementById?.(id)?.textContent).join(" "));
};

// The browser does not load images, and shows their texts instead: sizes are known only if the style sets them.
const rectOf = (element) => {
  let { x, y, width, height } = element.getBoundingClientRect();
  if (element.localName === "img" && !element.naturalWidth) {
    const style = element.computedStyleMap();
    const known = ["width", "height"].map((name) => style.get(name)).map((v) => (v?.unit === "px" ? v.value : 0));
    if (!known[0] && !known[1]) return null;
    [width, height] = [known[0] || known[1], known[1] || known[0]];
  }
  return [Math.round(x + scrollX), Math.round(y + scrollY), Math.round(width), Math.round(height)];
};

// What styles paint in an element, or in the parts that they add before and after its content.
const paintOf = (element) => {
  for (const part of [null, "::before", "::after"]) {
    const style = getComputedStyle(element, part);
    const found = [style.backgroundImage, part ? style.content : ""].find((value) => value.includes("url("));
    if (found) return found;
  }
  return "";
};

const backgroundOf = (element) => {
  const own = element.getAttribute("style");
  const key = own && /background/i.test(own) ? "" : `${element.localName} ${element.className} ${element.id}`;
  if (key && backgrounds.has(key) && !own) return backgrounds.get(key);
  const found = element.offsetWidth >= 12 && element.offsetHeight >= 12 ? paintOf(element) : "";
  if (key && !own) backgrounds.set(key, found);
  return found;
};

const copyInNoscript = (image) => {
  const holder = image.parentElement?.querySelector("noscript");
  const copy = holder && new DOMParser().parseFromString(holder.textContent, "text/html").querySelector("img");
  return copy ? [copy.getAttribute("src") || "", copy.getAttribute("srcset") || ""] : null;
};

const svgSource = (svg) => {
  const uses = svg.querySelectorAll("use");
  const target = (use) => use.getAttribute("href") || use.getAttribute("xlink:href") || "";
  if (uses.length === 1 && !target(uses[0]).startsWith("#")) return { src: target(uses[0]) };
  // A picture in a frame of vectors: as an image of its own, an SVG loads no other file.
  const pictures = svg.querySelectorAll("image");
  if (pictures.length === 1 && target(pictures[0])) return { src: target(pictures[0]) };
  const copy = svg.cloneNode(true);
  copy.querySelectorAll("script, foreignObject").forEach((node) => node.remove());
  copy.querySelectorAll("use").forEach((use) => {
    const symbol = target(use).startsWith("#") && svg.getRootNode().getElementById?.(target(use).slice(1));
    if (!symbol) return;
    const group = document.createElementNS("http://www.w3.org/2000/svg", "g");
    group.append(...symbol.cloneNode(true).childNodes);
    if (symbol.getAttribute("viewBox") && !copy.getAttribute("viewBox")) {
      copy.setAttribute("viewBox", symbol.getAttribute("viewBox"));
    }
    use.replaceWith(group);
  });
  for (const name of ["class", "style", "id", "role", "aria-label", "width", "height"]) copy.removeAttribute(name);
  const text = new XMLSerializer().serializeToString(copy);
  return text.length > MAX_SVG ? {} : { src: `data:image/svg+xml,${encodeURIComponent(text)}` };
};

const canvasSource = (canvas) => {
  const data = dataOf(canvas);
  if (Object.keys(data).length) return { data };
  try {
    return { src: canvas.width * canvas.height > 64 ? canvas.toDataURL() : "" };
  } catch { // a canvas with pixels of another origin
    return {};
  }
};

const sourceOf = (element, kind) => {
  if (kind === "svg") return svgSource(element);
  if (kind === "canvas") return canvasSource(element);
  if (kind === "background") return { src: element.localName ? backgroundOf(element) : "" };
  const found = { src: element.getAttribute("src") || "", srcset: element.getAttribute("srcset") || "" };
  const data = dataOf(element);
  if (Object.keys(data).length) found.data = data;
  if (element.parentElement?.localName === "picture") {
    found.sources = [...element.parentElement.querySelectorAll("source")].map(
      (source) => source.getAttribute("srcset") || source.getAttribute("data-srcset") || "");
  }
  if (!/^(https?:|\/)/.test(found.src)) {
    const copy = copyInNoscript(element);
    if (copy) found.noscript = copy;
  }
  return found;
};

const addImage = (element, index, kind) => {
  imageCount += kind === "img";
  if (images.length >= MAX_IMAGES) return;
  if (!element.checkVisibility() && (kind === "svg" || !element.parentElement?.checkVisibility())) return;
  const rect = rectOf(element);
  // Vector icons of buttons are many, and serializing them is not free.
  if (kind === "svg" && rect[2] * rect[3] < 400) return;
  const source = sourceOf(element, kind);
  if (source.src === "" && !source.data && !source.srcset && !source.sources && !source.noscript) return;
  const names = [element.getAttribute("title"), element.getAttribute("alt"),
    element.getAttribute("aria-label") || labelOf(element),
    kind === "svg" ? element.querySelector("title")?.textContent : ""].map(clean);
  const size = [Number(element.getAttribute("width")) || 0, Number(element.getAttribute("height")) || 0];
  images.push([index, kind, source, names, rect, size, base, order += 1]);
};

const visit = (element, parent, marks, isRoot = false) => {
  const tag = element.localName;
  if (SKIPPED.has(tag) || elements.length >= MAX_ELEMENTS || element.hidden) return;
  const index = elements.length;
  elements.push(element);
  parents.push(parent);
  let flag = isRoot ? "r" : "";
  if (marks.tile.has(element)) flag += "t";
  if (marks.content.has(element)) flag += "c";
  if (marks.image.has(element)) flag += "i";
  flags.push(flag);
  if (marks.title.has(element)) texts.push([index, "selected", clean(element.textContent).slice(0, MAX_TEXT), order += 1]);
  if (tag === "img" || tag === "canvas" || tag === "svg") return void addImage(element, index, tag);
  if (tag === "iframe" || tag === "frame") return void visitFrame(element, index);
  if (element.childElementCount <= 2 && tag !== "body" && tag !== "html" && backgroundOf(element)) {
    addImage(element, index, "background");
  }
  if (tag === "a") addLink(element);
  if (element.shadowRoot) visitChildren(element.shadowRoot, index, marksOf(element.shadowRoot));
  visitChildren(element, index, marks);
};

const visitChildren = (holder, index, marks) => {
  for (let child = holder.firstChild; child; child = child.nextSibling) {
    if (child.nodeType === 1) visit(child, index, marks, holder.nodeType === 11);
    else if (child.nodeType === 3 && child.nodeValue.length < 2000) {
      const text = clean(child.nodeValue);
      if (text && text.length <= MAX_TEXT) texts.push([index, "", text, order += 1]);
    }
  }
};

const visitFrame = (frame, index) => {
  let inner = null;
  try {
    inner = frame.contentDocument?.body;
  } catch { /* another origin */ }
  if (!inner || !frame.checkVisibility()) return;
  const outer = base;
  base = bases.push(frame.contentDocument.baseURI) - 1;
  visit(inner, index, marksOf(frame.contentDocument));
  base = outer;
};

const marksOf = (root) => Object.fromEntries(
  ["content", "tile", "image", "title"].map((name) => [name, matching(root, selectors[name])]));

const addLink = (link) => {
  const href = link.getAttribute("href"), text = clean(link.textContent);
  if (!href || links.length >= 1000) return;
  const label = clean(`${link.getAttribute("aria-label") || ""} ${link.getAttribute("title") || ""}`);
  const isPager = /\bnext\b/i.test(link.rel) || /^\d{1,6}$/.test(text) || PAGE_ADDRESS.test(href)
    || (text.length <= 30 && PAGER.test(text)) || PAGER.test(label);
  if (isPager && href !== "#") links.push([link.href, link.rel, text.slice(0, 40), label.slice(0, 80), bases[base]]);
};

bases.push(document.baseURI);
if (document.body) visit(document.body, -1, marksOf(document));
for (const link of document.querySelectorAll("link[rel~=next][href]")) links.push([link.href, "next", "", "", bases[0]]);

// FNV-1a over what identifies the pictures: unchanged pages are not sent again.
let hash = 2166136261;
const mix = (text) => {
  for (let n = 0; n < text.length; n += 1) hash = Math.imul(hash ^ text.charCodeAt(n), 16777619);
};
for (const [, , source, names] of images) {
  for (const value of [source.src, source.srcset, ...Object.values(source.data || {}), ...names]) {
    if (value) mix(value.length > 300 ? value.slice(0, 100) + value.slice(-200) + value.length : value);
  }
}
const signature = `${images.length} ${texts.length} ${hash}`;
if (signature === previous) return null;

// Only elements around pictures are sent, and texts near them.
const counts = new Int32Array(elements.length);
const needed = new Uint8Array(elements.length);
for (const [index] of images) for (let n = index; n >= 0; n = parents[n]) { counts[n] += 1; needed[n] = 1; }
flags.forEach((flag, index) => { if (flag.includes("t") || flag.includes("c")) for (let n = index; n >= 0 && !needed[n]; n = parents[n]) needed[n] = 1; });
const numbers = new Int32Array(elements.length).fill(-1), nodes = [];
elements.forEach((element, index) => {
  if (!needed[index]) return;
  const attributes = {};
  for (const name of NAMED) {
    const value = element.getAttribute(name);
    if (value) attributes[name] = value.slice(0, 300);
  }
  for (const { name, value } of element.attributes) {
    if (name.startsWith("data-") && !(name in attributes)) attributes[name] = value.length <= 60 ? value : "";
  }
  if (!attributes["aria-label"] && element.hasAttribute("aria-labelledby")) attributes["aria-label"] = labelOf(element);
  numbers[index] = nodes.length;
  nodes.push([parents[index] < 0 ? -1 : numbers[parents[index]], element.localName, element.getAttribute("class") || "",
    element.cellIndex ?? -1, flags[index], attributes]);
});
const shownTexts = [];
for (const [index, kind, text, place] of texts) {
  let n = index, path = kind;
  const isHeading = HEADINGS.has(elements[index].localName);
  while (n >= 0 && !needed[n]) {
    if (PLAIN_TEXT.has(elements[n].localName)) path = null;
    const cell = elements[n].cellIndex;
    if (path !== null && !kind) path = `${elements[n].localName}${cell >= 0 ? `:${cell}` : ""}${path ? `/${path}` : ""}`;
    n = parents[n];
  }
  if (n >= 0 && path !== null && (counts[n] <= 8 || isHeading)) shownTexts.push([numbers[n], path, text, place]);
}
return {
  signature, nodes, links, bases, texts: shownTexts, url: location.href, title: clean(document.title),
  num_images: imageCount, text: texts.slice(0, 20).filter((row) => !row[1]).map((row) => row[2]).join(" ").slice(0, 200),
  images: images.map(([index, ...rest]) => [numbers[index], ...rest]),
};
