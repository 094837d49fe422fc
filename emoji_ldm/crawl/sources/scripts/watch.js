// Runs in every new document, also of frames, before its own scripts: notes changes, counts what is still to come, and
// takes the means from pages that stop or leave the browser.
"use strict";
(() => {
  if (window.__emojiCrawl) return;
  const OLD_REQUEST_MS = 5000, MAX_TIMER_MS = 6000, MIN_TIMER_MS = 30, MAX_NESTING = 3, MANY = 8;
  const listen = EventTarget.prototype.addEventListener;
  const watch = { version: 1, changed: performance.now(), requests: new Map(), timers: new Set(), answered: new Map() };
  Object.defineProperty(window, "__emojiCrawl", { value: watch });
  const touch = () => { watch.version += 1; watch.changed = performance.now(); };

  // Requests. One for an address that was asked before is a poll, and one that stays open for long waits for news.
  let number = 0;
  const begin = (url) => {
    const key = number += 1, address = String(url?.url ?? url);
    watch.requests.set(key, { began: performance.now(), isPoll: watch.answered.has(address), address });
    return key;
  };
  const end = (key) => {
    const request = watch.requests.get(key);
    if (request && watch.answered.size < 1000) watch.answered.set(request.address, true);
    // What came is shown in the moments after.
    if (request && !request.isPoll) watch.changed = performance.now();
    watch.requests.delete(key);
  };
  const fetch = window.fetch;
  window.fetch = function (...args) {
    const key = begin(args[0]);
    return fetch.apply(this, args).finally(() => end(key));
  };
  const { open: openRequest, send } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.open = function (method, url, ...rest) {
    this.__emojiAddress = url;
    return openRequest.call(this, method, url, ...rest);
  };
  XMLHttpRequest.prototype.send = function (...args) {
    const key = begin(this.__emojiAddress);
    this.addEventListener("loadend", () => end(key), { once: true });
    return send.apply(this, args);
  };

  // Timers that fire once. Those that start themselves again, as tickers do, are none.
  const { setTimeout, clearTimeout } = window, fired = new Map();
  let nesting = 0;
  window.setTimeout = function (callback, delay, ...args) {
    const level = nesting, kind = `${delay} ${String(callback).slice(0, 80)}`;
    const isOnce = delay >= MIN_TIMER_MS && delay <= MAX_TIMER_MS && level < MAX_NESTING && !(fired.get(kind) >= MANY);
    if (typeof callback !== "function") return setTimeout.call(this, callback, delay, ...args);
    const timer = setTimeout.call(this, (...values) => {
      if (watch.timers.delete(timer)) watch.changed = performance.now();
      fired.set(kind, (fired.get(kind) || 0) + 1);
      nesting = level + 1;
      try {
        callback(...values);
      } finally {
        nesting = 0;
      }
    }, delay, ...args);
    if (isOnce) watch.timers.add(timer);
    return timer;
  };
  window.clearTimeout = function (timer) {
    watch.timers.delete(timer);
    return clearTimeout.call(this, timer);
  };
  // After scrolling or pressing: what comes into view is told to the page with the next frames only.
  let held = 0;
  watch.hold = () => {
    held += 1;
    requestAnimationFrame(() => requestAnimationFrame(() => setTimeout.call(window, () => { held -= 1; }, 60)));
  };
  watch.isHeld = () => held > 0;
  watch.isBusy = () => {
    const now = performance.now();
    return held > 0 || watch.timers.size > 0
      || [...document.querySelectorAll(SHEETS)].some(isPending)
      || [...watch.requests.values()].some((r) => !r.isPoll && now - r.began < OLD_REQUEST_MS);
  };

  // Style sheets, which bring pictures without a change of the document. Those of the markup hold its completion up;
  // those that a script adds are found here until they have come, or failed.
  const SHEETS = "link[rel~=stylesheet i], link[rel~=preload i][as=style i]";
  const asked = new WeakMap(), settled = new WeakMap();
  const purposeOf = (link) => `${link.rel} ${link.href}`;
  const isPending = (link) => {
    if (!link.href || link.disabled || (link.type && link.type !== "text/css")) return false;
    const purpose = purposeOf(link);
    if (settled.get(link) === purpose) return false;
    if (link.sheet?.href === link.href) {
      // Its event is still to come, and the tiles may have been looked for just before: the page has changed now.
      if (asked.get(link)?.purpose === purpose) settled.set(link, purpose), touch();
      return false;
    }
    if (asked.get(link)?.purpose !== purpose) asked.set(link, { purpose, began: performance.now() });
    return performance.now() - asked.get(link).began < OLD_REQUEST_MS;
  };
  const settle = ({ target }) => {
    if (target.localName === "link") settled.set(target, purposeOf(target));
    if (target.localName === "link" || target.localName === "style") touch();
  };

  const options = { childList: true, subtree: true, characterData: true, attributeFilter: ["src", "srcset", "data-src",
    "data-srcset", "style", "class", "hidden", "href", "title", "alt", "rel", "media", "disabled"] };
  const observer = new MutationObserver(touch);
  watch.observe = (root) => {
    observer.observe(root, options);
    for (const type of ["load", "error"]) listen.call(root, type, settle, true);
    touch();
  };
  // The first document of a frame takes over the window of the empty one before it, and nobody is told: state.js looks.
  // A document that is complete looks different from before: its style sheets are there.
  watch.attend = () => {
    if (watch.document !== document) watch.observe(watch.document = document);
    if (watch.progress !== document.readyState) touch();
    watch.progress = document.readyState;
  };
  watch.attend();
  const attach = Element.prototype.attachShadow;
  Element.prototype.attachShadow = function (...args) {
    const root = attach.apply(this, args);
    watch.observe(root);
    return root;
  };

  // Nobody is there to answer, to print or to look at another window.
  Object.assign(window, { alert() {}, confirm: () => true, prompt: () => null, print() {}, open: () => null });
  EventTarget.prototype.addEventListener = function (type, ...rest) {
    if (type !== "beforeunload" && type !== "unload") listen.call(this, type, ...rest);
  };
  for (const name of ["onbeforeunload", "onunload"]) Object.defineProperty(window, name, { get: () => null, set() {} });
})();
