// Pictures of the service. An img cannot send the key, so each is fetched when it comes into view, a few at a time.

import { ApiError, apiEvents, request } from './api.js';
import { h } from './dom.js';
import { addressOf } from './pictures.js';

const AT_ONCE = 6; // as browsers do with one host
const waiting = [];
let numRunning = 0;

/** An img whose picture the service has at `path`; `side` is its side in CSS pixels. */
export function remotePicture(path, side, alt, signal) {
  const image = h('img', { width: side, height: side, alt, decoding: 'async', draggable: 'false', class: 'remote' });
  const seen = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    enqueue(() => load(image, path, signal));
  }, { rootMargin: '200px' });
  seen.observe(image);
  signal.addEventListener('abort', () => seen.disconnect(), { once: true });
  return image;
}

/** The address of a picture of the service, until the signal is aborted. */
export async function fetchPicture(path, signal) {
  return addressOf(await (await request(path, { signal })).blob(), signal);
}

async function load(image, path, signal) {
  try {
    image.src = await fetchPicture(path, signal);
  } catch (error) {
    if (signal.aborted) return;
    image.classList.add('missing');
    if (error instanceof ApiError && error.offline) retryOnReturn(() => enqueue(() => load(image, path, signal)), signal);
  }
}

/** Call `work` once the service answers again. */
function retryOnReturn(work, signal) {
  const listen = ({ detail: answered }) => {
    if (!answered) return;
    apiEvents.removeEventListener('connection', listen);
    work();
  };
  apiEvents.addEventListener('connection', listen, { signal });
}

function enqueue(work) {
  waiting.push(work);
  next();
}

async function next() {
  if (numRunning === AT_ONCE || !waiting.length) return;
  numRunning += 1;
  await waiting.shift()();
  numRunning -= 1;
  next();
}
