// What the page tells a person: notices with undo, empty, loading and error states, and dialogs.

import { ApiError } from './api.js';
import { button, h, icon } from './dom.js';
import { t } from './i18n.js';

const NOTICE_MS = 8000;

/** Show a notice for some seconds; with `undo`, a button that takes back what was done. */
export function notice(text, { undo, kind = '' } = {}) {
  const close = () => { clearTimeout(timer); toast.remove(); };
  const toast = h('div', { class: `toast ${kind}` }, h('span', {}, text),
    undo && button(t('undo'), { class: 'link', onclick: async () => { close(); await undo(); } }),
    button(t('close'), { icon: 'close', quiet: true, onclick: close }));
  const timer = setTimeout(close, NOTICE_MS);
  placeToasts().append(toast);
  return close;
}

/** Put the notices where a person can reach them: beside an open dialog nothing can be clicked, so they lie in it. */
function placeToasts(closing) {
  const toasts = document.getElementById('toasts');
  const host = [...document.querySelectorAll('dialog[open]')].filter((each) => each !== closing).at(-1) ?? document.body;
  if (toasts.parentElement !== host) host.append(toasts);
  return toasts;
}

/** An error as a sentence for people: the service's own words where it gave some. */
export function explain(error) {
  if (error instanceof ApiError) {
    if (error.offline) return t('error.offline');
    if (error.status === 401) return t('error.key', { message: error.message });
    return error.message;
  }
  if (error?.name === 'QuotaExceededError') return t('error.storage_full');
  return error?.message || String(error);
}

export const noticeError = (error) => notice(explain(error), { kind: 'bad' });

/** A state in place of content: `kind` is empty, loading or error. */
export function state(kind, title, text, ...actions) {
  const sign = kind === 'loading' ? h('span', { class: 'spinner', 'aria-hidden': 'true' }) : icon(kind === 'error' ? 'warning' : 'gallery');
  return h('div', { class: `state ${kind}`, role: kind === 'error' ? 'alert' : null }, sign, h('h2', {}, title),
    text && h('p', {}, text), actions.length > 0 && h('div', { class: 'row' }, actions));
}

export const loading = () => state('loading', t('loading'));
export const failed = (error, retry) => state('error', t('error.title'), explain(error),
  button(t('try_again'), { icon: 'reroll', class: 'primary', onclick: retry }));

/** Show what `draw(value)` draws once `load()` has its value: a loading state before, and a state to try again if it fails. */
export async function drawLoaded(root, signal, load, draw) {
  root.replaceChildren(loading());
  let value;
  try {
    value = await load();
  } catch (error) {
    root.replaceChildren(failed(error, () => drawLoaded(root, signal, load, draw)));
    return;
  }
  if (!signal.aborted) await draw(value);
}

/** A modal dialog; the returned element closes itself on Escape, on its button, and on a click beside it. */
export function dialog(title, content, { wide = false, onclose } = {}) {
  const heading = h('h2', { id: 'dialog-title' }, title);
  const shut = button(t('close'), { icon: 'close', quiet: true, onclick: () => node.close() });
  const node = h('dialog', { class: wide ? 'wide' : null, 'aria-labelledby': 'dialog-title' },
    h('div', { class: 'dialog-head' }, heading, shut), h('div', { class: 'dialog-body' }, content));
  node.addEventListener('click', (event) => { if (event.target === node) node.close(); });
  node.addEventListener('close', () => { placeToasts(node); node.remove(); onclose?.(); });
  document.body.append(node);
  node.showModal();
  return node;
}

/** A delayed action that can be taken back: `hide` at once, `work` after the notice, `show` if it is undone. */
export function undoable(text, { hide, show, work }) {
  let undone = false;
  hide();
  notice(text, { undo: async () => { undone = true; await show(); } });
  setTimeout(async () => {
    if (undone) return;
    try {
      await work();
    } catch (error) {
      noticeError(error);
      await show();
    }
  }, NOTICE_MS);
}
