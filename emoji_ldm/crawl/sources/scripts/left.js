// Marks the document that is left, see state.js.
"use strict";
window.__emojiCrawlLeft = true;
