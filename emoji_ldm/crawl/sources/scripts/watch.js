// Runs in every new document before its own scripts: counts pending requests and notes the time of the last change.
"use strict";
(() => {
  const watch = { pending: 0, changed: performance.now() };
  Object.defineProperty(window, "__emojiCrawl", { value: watch });
  const touch = () => { watch.changed = performance.now(); };
  const begin = () => { watch.pending += 1; touch(); };
  const end = () => { watch.pending -= 1; touch(); };

  const fetch = window.fetch;
  window.fetch = function (...args) {
    begin();
    return fetch.apply(this, args).finally(end);
  };
  const send = XMLHttpRequest.prototype.send;
  XMLHttpRequest.prototype.send = function (...args) {
    begin();
    this.addEventListener("loadend", end, { once: true });
    return send.apply(this, args);
  };
  new MutationObserver(touch).observe(document, {
    childList: true, subtree: true, attributeFilter: ["src", "srcset", "data-src"], // lazy images
  });
})();
