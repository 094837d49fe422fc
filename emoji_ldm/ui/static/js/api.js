// The public HTTP API: JSON, files and event streams, with the key that the person has entered in this tab.

import { sleep } from './dom.js';

const KEY = 'studio.key';
/** Events: `unauthorized` (detail: the service's message) and `connection` (detail: whether it answered). */
export const apiEvents = new EventTarget();

/** An answer that is an error, or none at all (`status` 0). */
export class ApiError extends Error {
  constructor(message, { status = 0, code = '', param = '', retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter });
  }

  get offline() {
    return this.status === 0;
  }
}

// Kept for this tab only: it is gone when the tab is closed, and no other page of this origin can read it later.
export const getKey = () => sessionStorage.getItem(KEY) ?? '';
export const setKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));

/** Send a request and return the response; raises ApiError if it is not a success. */
export async function request(path, { method = 'GET', body, form, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (getKey()) sent.Authorization = `Bearer ${getKey()}`;
  if (body !== undefined) sent['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(path, { method, headers: sent, signal, body: form ?? (body && JSON.stringify(body)) });
  } catch (error) {
    if (signal?.aborted) throw error;
    tell('connection', false);
    throw new ApiError('', { code: 'offline' });
  }
  tell('connection', true);
  if (response.ok) return response;
  throw await errorOf(response);
}

async function errorOf(response) {
  const answer = await response.json().catch(() => ({}));
  const { message = `${response.status} ${response.statusText}`, code, param } = answer.error ?? {};
  if (response.status === 401) tell('unauthorized', message);
  const after = Number(response.headers.get('retry-after'));
  return new ApiError(message, { status: response.status, code, param, retryAfter: after || null });
}

export const getJson = async (path, options) => (await request(path, options)).json();
export const postJson = async (path, body, options) => getJson(path, { ...options, method: 'POST', body });

/**
 * Send a request whose answer is an event stream, and call `onEvent(data)` for each event.
 * An `error` event of the service is raised as ApiError; so is a connection that breaks.
 */
export async function stream(path, options, onEvent) {
  const response = await request(path, { ...options, method: 'POST' });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (options.signal?.aborted) throw error;
      tell('connection', false);
      throw new ApiError('', { code: 'offline' });
    });
    if (done) return;
    const events = (rest + value).split('\n\n');
    rest = events.pop();
    for (const event of events) {
      const line = event.split('\n').find((each) => each.startsWith('data: '));
      if (!line) continue; // a comment that keeps the connection open
      const data = JSON.parse(line.slice(6));
      if (data.type === 'error') throw new ApiError(data.error.message, { status: 500, ...data.error });
      await onEvent(data);
    }
  }
}

/** Call `work` again while the service is busy and says when to come back; `onWait(seconds)` is told before each pause. */
export async function whileBusy(work, { signal, onWait = () => {}, tries = 10 } = {}) {
  for (let number = 1; ; number += 1) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ApiError) || !error.retryAfter || number === tries) throw error;
      onWait(error.retryAfter);
      await sleep(error.retryAfter * 1000, signal);
    }
  }
}

/** The Blob of a file in base64. */
export function blobOf(base64, type = 'image/png') {
  return new Blob([Uint8Array.from(atob(base64), (each) => each.charCodeAt(0))], { type });
}

const MODELS_MS = 10_000; // for which a list of models is used again: others may add and remove some
const LISTED_MS = 8_000; // in which every replica of the service knows of a change, and some
let models = null;
let modelsAt = 0;

/** The models of the service, the default one first. */
export function getModels() {
  if (performance.now() - modelsAt > MODELS_MS) models = null;
  if (!models) modelsAt = performance.now();
  models ??= getJson('v1/models').then((answer) => answer.data);
  models.catch(() => { models = null; });
  return models;
}

/** Wait until the service lists a model that was just added, or no longer lists one: it looks every few seconds. */
export async function modelsChanged(name, isListed) {
  const until = performance.now() + LISTED_MS;
  do {
    models = null;
    if ((await getModels().catch(() => [])).some(({ id }) => id === name) === isListed) return;
    await sleep(400);
  } while (performance.now() < until);
}

function tell(name, detail) {
  apiEvents.dispatchEvent(new CustomEvent(name, { detail }));
}
