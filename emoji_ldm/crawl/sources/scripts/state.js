// Returns the state of the page. Arguments: time of its last change at the previous call (ms of its own clock), and the
// seconds without a change after which it is quiet. Its HTML is included only if it is quiet and has changed since.
"use strict";
const MAX_CHARS = 20e6; // a page that grows for ever must not fill our memory
const [seen, quietLimit_s] = arguments;
const watch = window.__emojiCrawl || { pending: 0, changed: 0 };
const quiet_s = (performance.now() - watch.changed) / 1000;
const hasNews = watch.changed !== seen && (quiet_s >= quietLimit_s || location.protocol === "chrome-error:");
return {
  url: location.href,
  html: hasNews ? document.documentElement.outerHTML.slice(0, MAX_CHARS) : null,
  changed: watch.changed,
  complete: document.readyState === "complete",
  pending: watch.pending,
  quiet_s,
};
