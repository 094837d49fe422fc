// Requests of Create while they are being drawn. They belong to the page, not to a view: going to the gallery and back
// ends none of them.

import { ApiError, blobOf, getModels, stream, whileBusy } from './api.js';
import { requestParameters } from './fields.js';
import { keep } from './database.js';
import { onColour, readParameters } from './png.js';
import { newPicture } from './pictures.js';
import { writePrompt } from './prompt.js';

const NUM_PREVIEWS = 3;
const KEPT_RUNS = 12;
/** Newest first: {state: waiting|drawing|done|failed|cancelled, slots: [{preview, picture, seed}], ...}. */
export const runs = [];
/** Tells `change` with the run as detail. */
export const runEvents = new EventTarget();

/** Begin a run from what was entered; `files` may hold `image` and `mask`. */
export function startRun(draft, files) {
  const prompt = writePrompt(draft.subject, draft.attributes);
  const body = { prompt, n: Number(draft.n), ...requestParameters(draft), background: backgroundOf(draft) };
  if (draft.seedMode !== 'random' && draft.seed !== '') body.seed = Number(draft.seed);
  const run = { id: crypto.randomUUID(), prompt, body, draft: structuredClone(draft), files: { ...files }, state: 'drawing',
    started: Date.now(), slots: Array.from({ length: body.n }, () => ({})), stop: new AbortController(), error: null, waits: 0 };
  runs.unshift(run);
  runs.length = Math.min(runs.length, KEPT_RUNS);
  work(run);
  return run;
}

/** Draw what a failed run has not finished, with the seeds that it had. */
export function resumeRun(run) {
  Object.assign(run, { state: 'drawing', error: null, stop: new AbortController() });
  work(run);
}

export function cancelRun(run) {
  run.stop.abort();
  Object.assign(run, { state: 'cancelled' });
  tell(run);
}

const backgroundOf = ({ ground }) => ({ drawn: 'auto', white: 'opaque' }[ground] ?? 'transparent');

async function work(run) {
  tell(run);
  try {
    const missing = run.slots.flatMap((slot, index) => (slot.picture ? [] : [index]));
    const seed = run.slots.find((each) => each.seed !== undefined)?.seed0;
    // Nothing has come yet, or all is missing: one request. Else each missing picture by its own seed.
    if (missing.length === run.slots.length || seed === undefined) await draw(run, run.body, 0);
    else for (const index of missing) await draw(run, { ...run.body, n: 1, seed: seed + index }, index);
    run.state = 'done';
  } catch (error) {
    if (run.stop.signal.aborted) return;
    Object.assign(run, { state: 'failed', error });
  }
  run.ended = Date.now();
  tell(run);
}

async function draw(run, body, first) {
  const { signal } = run.stop;
  const sent = { ...body, stream: true, partial_images: NUM_PREVIEWS, queue_events: true };
  const options = () => (run.files.image ? { form: formOf(sent, run), signal } : { body: sent, signal });
  const path = `v1/images/${run.files.image ? 'edits' : 'generations'}`;
  const onWait = (seconds) => { run.state = 'waiting'; run.waits = seconds; tell(run); };
  const attempt = () => stream(path, options(), async (event) => { run.state = 'drawing'; await arrive(run, event, first); });
  await whileBusy(attempt, { signal, onWait });
  if (run.slots.slice(first, first + body.n).some((slot) => !slot.picture)) throw new ApiError('', { code: 'offline' });
}

function formOf(sent, run) {
  const form = new FormData();
  const { strength } = run.draft;
  const texts = run.files.mask || strength === '' ? sent : { ...sent, strength };
  for (const [name, value] of Object.entries(texts)) form.append(name, String(value));
  form.append('image', run.files.image, 'image');
  if (run.files.mask) form.append('mask', run.files.mask, 'mask');
  return form;
}

async function arrive(run, event, first) {
  const index = first + event.image_index;
  const slot = run.slots[index];
  Object.assign(slot, { seed: event.seed, seed0: event.seed - index, place: event.place ?? 0, eta: event.eta_s ?? 0 });
  if (event.type.endsWith('.queued')) { tell(run); return; }
  const blob = blobOf(event.b64_json);
  if (event.type.endsWith('.partial_image')) {
    Object.assign(slot, { preview: blob, progress: event.partial_image_index + 1 });
  } else {
    slot.picture = await pictureOf(run, blob, event.seed);
    // Kept before it is shown: what a person has seen is not lost when the tab is closed.
    await keep(slot.picture);
  }
  tell(run);
}

async function pictureOf(run, blob, seed) {
  const { draft, body } = run;
  const stated = (await readParameters(blob))?.params ?? {};
  const ground = draft.ground === 'colour' ? draft.colour : draft.ground;
  const own = draft.ground === 'colour' ? await onColour(blob, draft.colour) : blob;
  const { prompt, n, ...asked } = body;
  const model = body.model ?? (await getModels())[0].id;
  const params = { ...asked, ...stated, model, seed, ground, steps: stated.steps ?? body.num_inference_steps };
  return newPicture(own, prompt, params, 'create', { subject: draft.subject, attributes: draft.attributes });
}

function tell(run) {
  runEvents.dispatchEvent(new CustomEvent('change', { detail: run }));
}
