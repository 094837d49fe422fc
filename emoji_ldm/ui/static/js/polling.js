// Asking the service again and again, but only while a person can see the page.

import { sleep } from './dom.js';

/**
 * Call `work` until the signal is aborted; it returns after how many milliseconds it wants to be called again.
 * A hidden page asks nothing, and asks at once when it is shown again; so it does when `nudge` tells `now`.
 */
export async function poll(work, signal, nudge = new EventTarget()) {
  while (!signal.aborted) {
    const cycle = new AbortController(); // its listeners end with it
    const either = AbortSignal.any([signal, cycle.signal]);
    await whileHidden(either);
    if (signal.aborted) return;
    const pause = await work();
    await Promise.race([sleep(pause, either), shownAgain(either), event(nudge, 'now', either)]).catch(() => {});
    cycle.abort();
  }
}

/** Resolves with the event, or when the signal is aborted. */
const event = (target, name, signal) => new Promise((resolve) => {
  target.addEventListener(name, resolve, { once: true, signal });
  signal.addEventListener('abort', resolve, { once: true });
});

async function whileHidden(signal) {
  while (document.hidden && !signal.aborted) await event(document, 'visibilitychange', signal);
}

async function shownAgain(signal) {
  while (!document.hidden && !signal.aborted) await event(document, 'visibilitychange', signal);
  await whileHidden(signal);
}
