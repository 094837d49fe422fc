// One image of the data set: how it looks, everything that is known of it, and its caption, which people may correct.
// What was typed is kept in this tab until it is saved, whatever happens to the service, the key or the page meanwhile.

import { getJson } from '../api.js';
import { datasetPath } from '../datasets.js';
import { button, field, fill, h } from '../dom.js';
import { dialog, explain, notice, noticeError } from '../feedback.js';
import { moment, t } from '../i18n.js';
import { looksTable } from '../pictures.js';
import { fetchPicture } from '../remote_pictures.js';

const MAX_CAPTION = 1000; // as the service has it
const draftKey = (image) => `studio.caption.${image.id}`;

/**
 * Open an image in a dialog.
 * `changed(image)` is told of a correction; `neighbour(image, step)` gives the one before or after it in the list.
 */
export function openImage(image, context) {
  const life = new AbortController();
  const content = h('div', { class: 'stack' });
  const node = dialog(image.title || image.id.slice(0, 12), content, { wide: true, onclose: () => life.abort() });
  drawImage(content, image, { ...context, signal: life.signal, close: () => node.close() });
}

function drawImage(root, image, context) {
  const { pinned, neighbour, close, writable, signal } = context;
  const looks = h('div', { class: 'looks-place' });
  const go = (step) => { const next = neighbour(image, step); if (next) { close(); openImage(next, context); } };
  fetchPicture(datasetPath(pinned, `/images/${encodeURIComponent(image.id)}/thumbnail?size=256`), signal)
    .then((url) => fill(looks, looksTable(url)), (error) => { if (!signal.aborted) fill(looks, h('p', { class: 'problem' }, explain(error))); });
  const known = h('div', { class: 'stack' });
  const redraw = (now) => fill(known, captionList(now), factList(now), duplicateList(now));
  redraw(image);
  fill(root, h('div', { class: 'columns' }, h('div', { class: 'stack' }, looks,
    h('div', { class: 'row wrap' }, button(t('data.previous'), { icon: 'left', disabled: !neighbour(image, -1), onclick: () => go(-1) }), button(t('data.next'), { icon: 'right', disabled: !neighbour(image, 1), onclick: () => go(1) }))),
  h('div', { class: 'stack' }, writable ? captionForm(image, { ...context, redraw, go }) : h('p', { class: 'hint' }, t('data.fixed')), known)));
}

const usedCaption = (image) => image.captions.find((each) => each.used)?.caption ?? '';
const humanCaption = (image) => image.captions.find((each) => each.engine === 'human')?.caption ?? '';

/** The caption with its form; a conflict with somebody else's correction shows both texts. */
function captionForm(first, { version, changed, redraw, go, neighbour }) {
  let image = first;
  const kept = sessionStorage.getItem(draftKey(image));
  const text = h('textarea', { name: 'caption', rows: 4, maxlength: MAX_CAPTION, value: kept ?? usedCaption(image), oninput: () => { keepDraft(); problem.replaceChildren(); } });
  const problem = h('div', { class: 'problem', role: 'alert' });
  const save = button(t('save'), { type: 'submit', icon: 'check', class: 'primary' });
  const onward = button(t('data.save_next'), { icon: 'right', onclick: () => submit(true), disabled: !neighbour(image, 1) });
  const back = button(t('data.withdraw'), { icon: 'recall', onclick: () => send('') });
  const form = h('form', { class: 'stack', onsubmit: (event) => { event.preventDefault(); submit(false); } },
    field(t('data.caption'), text, t('data.caption_hint')), kept !== null && kept !== usedCaption(image) && h('p', { class: 'hint' }, t('data.kept')), problem,
    h('div', { class: 'row wrap' }, save, onward, back));
  form.addEventListener('keydown', (event) => { if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(false); } });
  back.hidden = !humanCaption(image);

  function keepDraft() {
    if (text.value === usedCaption(image)) sessionStorage.removeItem(draftKey(image));
    else sessionStorage.setItem(draftKey(image), text.value);
  }

  async function submit(isOnward) {
    if (!text.value.trim()) { fill(problem, t('data.no_text')); text.focus(); return; }
    if (await send(text.value) && isOnward) go(1);
  }

  /** Write a caption; an empty one takes back what people wrote. */
  async function send(caption) {
    const before = humanCaption(image);
    fill(problem);
    for (const each of [save, onward, back]) each.disabled = true;
    try {
      const answer = await correct(version, image, caption);
      take(answer.image);
      notice(t(caption ? 'data.saved' : 'data.withdrawn', { name: image.title }), { undo: () => undo(answer.image, before) });
      return true;
    } catch (error) {
      if (error.code === 'caption_conflict') await showConflict(caption);
      else fill(problem, explain(error));
      return false;
    } finally {
      save.disabled = back.disabled = false;
      onward.disabled = !neighbour(image, 1);
    }
  }

  async function undo(now, before) {
    try {
      const { image: restored } = await correct(version, now, before);
      if (form.isConnected) take(restored);
      else changed(restored);
    } catch (error) {
      noticeError(error);
    }
  }

  function take(now) {
    image = now;
    text.value = usedCaption(now);
    sessionStorage.removeItem(draftKey(now));
    back.hidden = !humanCaption(now);
    redraw(now);
    changed(now);
  }

  async function showConflict(caption) {
    try {
      image = await getJson(datasetPath(version, `/images/${encodeURIComponent(image.id)}`));
    } catch (error) {
      fill(problem, explain(error));
      return;
    }
    redraw(image);
    const theirs = usedCaption(image);
    fill(problem, h('p', {}, t('data.conflict')), h('blockquote', {}, theirs || t('data.no_caption')),
      h('div', { class: 'row wrap' }, button(t('data.save_mine'), { onclick: () => send(caption) }), button(t('data.take_theirs'), { onclick: () => { fill(problem); take(image); } })));
  }
  return form;
}

const correct = (version, image, caption) => getJson(datasetPath(version, `/images/${encodeURIComponent(image.id)}/caption`),
  { method: 'PUT', body: { caption, revision: image.revision } });

function captionList(image) {
  if (!image.captions.length) return null;
  return h('section', { class: 'stack tight', 'aria-label': t('data.captions') }, h('h3', {}, t('data.captions')), h('ul', { class: 'caption-list' }, image.captions.map((each) => h('li', { class: each.used ? 'used' : '' },
    h('span', { class: 'row wrap' }, h('span', { class: 'tag' }, each.engine === 'human' ? t('data.by_person') : each.engine), !each.used && h('span', { class: 'quiet' }, t('data.unused'))),
    h('p', {}, each.caption || t('data.caption_failed', { reason: each.reason })),
    Object.keys(each.attributes).length > 0 && h('dl', { class: 'facts' }, Object.entries(each.attributes).map(([name, value]) => [h('dt', {}, t(`attribute.${name}`)), h('dd', {}, value)]))))));
}

function factList(image) {
  const rows = [[t('data.size'), `${image.width} × ${image.height} px`], [t('data.format'), image.source_format], [t('param.tags'), image.tags.join(', ')],
    [t('pack.license'), image.license ?? t('nearest.no_license')], [t('data.source'), linkOf(image.source_url)], [t('data.page'), linkOf(image.page_url)],
    [t('data.fetched'), image.fetched_at && moment(image.fetched_at * 1000)]];
  return h('dl', { class: 'facts' }, rows.filter(([, value]) => value).map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]));
}

function duplicateList(image) {
  if (!image.num_duplicates) return null;
  return h('details', {}, h('summary', {}, t('data.num_duplicates', { n: image.num_duplicates })),
    h('ul', { class: 'urls' }, image.duplicates.map((each) => h('li', {}, linkOf(each.url), each.reason && h('span', { class: 'quiet' }, ` ${each.reason}`)))));
}

/** An address as a link if it is one of the web, else as text: what a crawl found may be anything. */
export function linkOf(address) {
  if (!/^https?:\/\//.test(address ?? '')) return address || '';
  return h('a', { href: address, target: '_blank', rel: 'noreferrer noopener' }, address);
}
