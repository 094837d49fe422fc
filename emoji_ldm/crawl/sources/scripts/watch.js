// Runs in every new document, also of frames, before its own scripts: notes changes, counts what is still to come, and
// takes the means from pages that stop or leave the browser.
"use strict";
(() => {
  if (window.__emojiCrawl) return;
  const OLD_REQUEST_MS = 5000, MAX_TIMER_MS = 6000, MIN_TIMER_MS = 30, MAX_NESTING = 3, MANY = 8;
  const MAX_INTERVAL_MS = 1000, TIMES = 2;
  const listen = EventTarget.prototype.addEventListener;
  const watch = { version: 1, changed: performance.now(), timers: new Set() };
  Object.defineProperty(window, "__emojiCrawl", { value: watch });
  const touch = () => { watch.version += 1; watch.changed = performance.now(); };

  // Answers: what came is shown in the moments after. One to an address that was asked before is a poll's. Which requests
  // are open is known from the browser's log.
  const answered = new Set();
  const end = (address) => {
    if (!answered.has(address)) watch.changed = performance.now();
    if (answered.size < 1000) answered.add(address);
  };
  const fetch = window.fetch;
  window.fetch = function (...args) {
    return fetch.apply(this, args).finally(() => end(String(args[0]?.url ?? args[0])));
  };
  const { open: openRequest, send } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.open = function (method, url, ...rest) {
    this.__emojiAddress = url;
    return openRequest.call(this, method, url, ...rest);
  };
  XMLHttpRequest.prototype.send = function (...args) {
    this.addEventListener("loadend", () => end(String(this.__emojiAddress)), { once: true });
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
  // Timers that fire again and again may bring a tile each time: they count for the first times.
  const { setInterval, clearInterval } = window;
  let intervals = 0;
  window.setInterval = function (callback, delay, ...args) {
    const counts = typeof callback === "function" && delay >= MIN_TIMER_MS && delay <= MAX_INTERVAL_MS;
    if (!counts || (intervals += 1) > MANY) return setInterval.call(this, callback, delay, ...args);
    let times = 0;
    const timer = setInterval.call(this, (...values) => {
      if ((times += 1) === TIMES) watch.timers.delete(timer);
      callback(...values);
    }, delay, ...args);
    watch.timers.add(timer);
    return timer;
  };
  window.clearInterval = function (timer) {
    watch.timers.delete(timer);
    return clearInterval.call(this, timer);
  };
  // After scrolling or pressing: what comes into view is told to the page with the next frames only.
  let held = 0;
  watch.hold = () => {
    held += 1;
    requestAnimationFrame(() => requestAnimationFrame(() => setTimeout.call(window, () => { held -= 1; }, 60)));
  };
  watch.isHeld = () => held > 0;
  watch.isBusy = () => held > 0 || watch.timers.size > 0 || [...document.querySelectorAll(SHEETS)].some(isPending);

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
