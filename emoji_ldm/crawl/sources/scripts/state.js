// Returns the state of the page: its address, whether it is the document that was left, whether more is to come, and
// since when it rests. Frames of the same origin count too.
"use strict";
const watches = [];
const add = (view, depth) => {
  try {
    if (view.__emojiCrawl) {
      view.__emojiCrawl.attend();
      watches.push([view.__emojiCrawl, view]);
    }
    if (depth < 4) for (let n = 0; n < Math.min(view.length, 30); n += 1) add(view[n], depth + 1);
  } catch { /* a frame of another origin */ }
};
add(window, 0);
return {
  url: location.href,
  is_left: Boolean(window.__emojiCrawlLeft),
  is_complete: document.readyState === "complete",
  is_held: watches.some(([watch]) => watch.isHeld()),
  is_busy: watches.some(([watch, view]) => view.document.readyState !== "complete" || watch.isBusy()),
  // A frame that shows another document counts anew.
  version: watches.map(([watch, view]) => `${watch.version} ${Math.round(view.performance.timeOrigin)}`).join(),
  quiet_s: Math.min(1e6, ...watches.map(([watch, view]) => (view.performance.now() - watch.changed) / 1000)),
};
