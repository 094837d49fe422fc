// One look at the page. arguments: when it had changed at the last look (its own ms), seconds that count as rest.
// The text of the page comes along only if it rests and is another than at the last look.
"use strict";
const MAX_CHARS = 20e6; // a page that grows for ever must not fill our memory
const [seen, rest_s] = arguments;
const watch = window.__emojiCrawl || { pending: 0, changed: 0 };
const quiet_s = (performance.now() - watch.changed) / 1000;
const news = watch.changed !== seen && (quiet_s >= rest_s || location.protocol === "chrome-error:");
return {
  url: location.href,
  html: news ? document.documentElement.outerHTML.slice(0, MAX_CHARS) : null,
  changed: watch.changed,
  complete: document.readyState === "complete",
  pending: watch.pending,
  quiet_s,
};
