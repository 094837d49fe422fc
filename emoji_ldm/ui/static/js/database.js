// What a person made, in this browser's IndexedDB; every tab of the studio hears of changes.
//
//   pictures  the gallery: {id, blob, name, prompt, params, tags, source, created, deletedAt}
//   marks     what a person noted on pictures of a bulk set: {set, item, picked, name, tags, hidden, picture}
//   pack      the pictures of the next pack, in order: {id, position, name}; `id` is that of a picture
//   notes     anything else by key: {key, value}

const STORES = { pictures: 'id', marks: ['set', 'item'], pack: 'id', notes: 'key' };
const KEEP_DELETED_MS = 24 * 3600 * 1000;
const channel = new BroadcastChannel('emoji-studio');
const changes = new EventTarget();
let opened = null;

// A message from another tab is told to the views as a change of this one is.
channel.addEventListener('message', ({ data }) => changes.dispatchEvent(new CustomEvent(data)));

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open('emoji-studio', 1);
    request.onupgradeneeded = () => {
      for (const [name, keyPath] of Object.entries(STORES)) request.result.createObjectStore(name, { keyPath });
    };
    request.onsuccess = () => {
      // Another tab with a newer studio wants to change the stores: this one must let go.
      request.result.onversionchange = () => { request.result.close(); opened = null; };
      resolve(request.result);
    };
    request.onerror = () => reject(request.error);
  });
  opened.catch(() => { opened = null; });
  return opened;
}

async function run(store, mode, work) {
  const transaction = (await open()).transaction(store, mode);
  const request = work(transaction.objectStore(store));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request?.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

export const get = (store, key) => run(store, 'readonly', (each) => each.get(key));
export const all = (store) => run(store, 'readonly', (each) => each.getAll());

/** Write records of one store, all or none. */
export async function put(store, ...records) {
  if (!records.length) return;
  await run(store, 'readwrite', (each) => { records.forEach((record) => each.put(record)); });
  announce(store);
}

export async function remove(store, ...keys) {
  if (!keys.length) return;
  await run(store, 'readwrite', (each) => { keys.forEach((key) => each.delete(key)); });
  announce(store);
}

/** Change fields of one record as one transaction, so that two tabs do not undo each other's changes. */
export async function update(store, key, defaults, fields) {
  await run(store, 'readwrite', (each) => {
    const reading = each.get(key);
    reading.onsuccess = () => each.put({ ...defaults, ...reading.result, ...fields });
    return reading;
  });
  announce(store);
}

/** The marks of one set, by item. */
export async function marksOf(set) {
  const range = IDBKeyRange.bound([set, ''], [set, '\uffff']);
  const found = await run('marks', 'readonly', (each) => each.getAll(range));
  return new Map(found.map((mark) => [mark.item, mark]));
}

/** Call `work` after every change of a store, in this tab or another, until the signal is aborted. */
export function onChange(store, signal, work) {
  changes.addEventListener(store, work, { signal });
}

function announce(store) {
  channel.postMessage(store);
  changes.dispatchEvent(new CustomEvent(store));
}

let persistent = false;

/** Add pictures to the gallery; the browser is asked once not to clear them. */
export async function keep(...pictures) {
  if (!persistent) {
    persistent = true;
    navigator.storage?.persist?.();
  }
  await put('pictures', ...pictures);
}

/** The pictures of the gallery, newest first; deleted ones are forgotten after a day. */
export async function gallery({ deleted = false } = {}) {
  const found = await all('pictures');
  const old = found.filter((each) => each.deletedAt && Date.now() - each.deletedAt > KEEP_DELETED_MS);
  if (old.length) await remove('pictures', ...old.map((each) => each.id));
  return found.filter((each) => Boolean(each.deletedAt) === deleted && !old.includes(each))
    .sort((a, b) => b.created - a.created || (a.id < b.id ? 1 : -1));
}

/** Append pictures to the pack; those that are in it stay where they are. */
export async function addToPack(...entries) {
  const there = new Map((await all('pack')).map((each) => [each.id, each]));
  let position = Math.max(0, ...[...there.values()].map((each) => each.position + 1));
  await put('pack', ...entries.filter(({ id }) => !there.has(id)).map((each) => ({ ...each, position: position++ })));
}
