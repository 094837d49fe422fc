// Gallery: everything that the person made in this browser, to search, sort out, recall, pack and download.

import { gallery, keep, onChange, put } from '../database.js';
import { button, debounce, fill, h, icon, select } from '../dom.js';
import { notice, noticeError, state } from '../feedback.js';
import { t } from '../i18n.js';
import { addressOf, download, imageOf, newPicture, openPicture, smallLooks, toPack } from '../pictures.js';
import { readParameters } from '../png.js';
import { fileDrop, imageProblem } from '../uploads.js';

const PAGE = 96; // pictures that are drawn at once
const SOURCES = ['create', 'set', 'compare', 'import'];

export async function mount(root, { signal }) {
  const filter = { text: '', source: '', model: '', tag: '', deleted: false };
  const selected = new Set();
  let found = [];
  let shownCount = PAGE;
  let anchor = -1;
  const search = h('input', { type: 'search', placeholder: t('gallery.search'), 'aria-label': t('gallery.search'), oninput: debounce(() => { filter.text = search.value.toLowerCase(); drawGrid(); }, 150) });
  const filters = h('div', { class: 'row wrap' });
  const bar = h('div', { class: 'selection' });
  const list = h('ul', { class: 'grid cards', 'aria-label': t('nav.gallery') });
  const status = h('p', { class: 'count', role: 'status' });
  const rest = h('div', { class: 'row center' });
  const files = h('input', { type: 'file', accept: 'image/png', multiple: true, class: 'visually-hidden', tabindex: -1, 'aria-label': t('gallery.import'), onchange: () => { importFiles([...files.files]); files.value = ''; } });

  async function load() {
    found = await gallery({ deleted: filter.deleted });
    if (signal.aborted) return;
    const ids = new Set(found.map((each) => each.id));
    for (const id of selected) if (!ids.has(id)) selected.delete(id);
    drawFilters();
    drawGrid();
  }

  function drawFilters() {
    const choose = (name, values, shown = (each) => each) => {
      const node = select([['', t(`gallery.any_${name}`)], ...values.map((each) => [each, shown(each)])], filter[name], { 'aria-label': t(`gallery.any_${name}`), onchange: () => { filter[name] = node.value; drawGrid(); } });
      return node;
    };
    const distinct = (read) => [...new Set(found.flatMap(read))].filter(Boolean).sort();
    const deleted = h('input', { type: 'checkbox', checked: filter.deleted, onchange: () => { filter.deleted = deleted.checked; selected.clear(); load(); } });
    fill(filters, choose('source', SOURCES, (each) => t(`source.${each}`)), choose('model', distinct((each) => each.params.model)),
      choose('tag', distinct((each) => each.tags)), h('label', { class: 'check' }, deleted, t('gallery.deleted')));
  }

  const matches = (picture) => (!filter.source || picture.source === filter.source) && (!filter.model || picture.params.model === filter.model)
    && (!filter.tag || picture.tags.includes(filter.tag))
    && filter.text.split(/\s+/).every((word) => [picture.name, picture.prompt, ...picture.tags, String(picture.params.seed)].join(' ').toLowerCase().includes(word));

  let visible = [];
  let addresses = new AbortController();
  signal.addEventListener('abort', () => addresses.abort());
  function drawGrid() {
    addresses.abort();
    addresses = new AbortController();
    const focused = document.activeElement?.closest?.('li')?.dataset.id;
    visible = found.filter(matches);
    status.textContent = t('gallery.count', { n: visible.length });
    fill(list, visible.slice(0, shownCount).map(card));
    fill(rest, visible.length > shownCount && button(t('show_more'), { onclick: () => { shownCount += PAGE; drawGrid(); } }),
      !visible.length && (found.length ? state('empty', t('gallery.no_match'), t('gallery.no_match_hint'))
        : state('empty', t(filter.deleted ? 'gallery.none_deleted' : 'gallery.empty'), filter.deleted ? '' : t('gallery.empty_hint'), !filter.deleted && h('a', { class: 'button primary', href: '#create' }, t('nav.create')))));
    if (focused) list.querySelector(`[data-id="${focused}"] .picture`)?.focus();
    drawBar();
  }

  function card(picture, index) {
    const url = addressOf(picture.blob, addresses.signal);
    const box = h('input', { type: 'checkbox', checked: selected.has(picture.id), 'aria-label': t('gallery.select', { name: picture.name }), onclick: (event) => choose(index, box.checked, event.shiftKey) });
    return h('li', { class: 'card', 'data-id': picture.id },
      h('button', { type: 'button', class: 'picture ground checker', 'aria-label': t('picture.open', { name: picture.name }), onclick: () => openPicture(picture, { editable: !filter.deleted }) }, imageOf(url, 96)),
      smallLooks(url), h('div', { class: 'caption' }, box, h('span', { title: picture.prompt }, picture.name)));
  }

  /** Select or not; with Shift everything since the last one. */
  function choose(index, on, range) {
    const [from, to] = range && anchor >= 0 ? [Math.min(anchor, index), Math.max(anchor, index)] : [index, index];
    for (let at = from; at <= to; at += 1) selected[on ? 'add' : 'delete'](visible[at].id);
    anchor = index;
    mark();
  }

  function mark() {
    for (const item of list.children) item.querySelector('input').checked = selected.has(item.dataset.id);
    drawBar();
  }

  const chosen = () => visible.filter((each) => selected.has(each.id));
  function drawBar() {
    const pictures = chosen();
    bar.hidden = !pictures.length;
    fill(bar, pictures.length > 0 && [h('span', { role: 'status' }, t('gallery.selected', { n: pictures.length })),
      filter.deleted ? button(t('gallery.restore'), { icon: 'recall', onclick: () => setDeleted(pictures, null) }) : [
        button(t('action.to_pack'), { icon: 'pack', class: 'primary', onclick: () => toPack(pictures).catch(noticeError) }),
        button(t('action.download'), { icon: 'download', onclick: () => pictures.forEach(download) }),
        button(t('action.delete'), { icon: 'remove', onclick: () => remove(pictures) })],
      button(t('gallery.clear'), { icon: 'close', onclick: () => { selected.clear(); mark(); } })]);
  }

  async function setDeleted(pictures, deletedAt) {
    await put('pictures', ...pictures.map((each) => ({ ...each, deletedAt }))).catch(noticeError);
  }
  async function remove(pictures) {
    selected.clear();
    await setDeleted(pictures, Date.now());
    notice(t('gallery.removed', { n: pictures.length }), { undo: () => setDeleted(pictures, null) });
  }

  async function importFiles(dropped) {
    for (const file of dropped) {
      const problem = await imageProblem(file);
      const stated = problem ? null : await readParameters(file);
      if (problem || !stated) notice(problem || t('recall.none', { name: file.name }), { kind: 'bad' });
      else {
        const picture = newPicture(new Blob([file], { type: 'image/png' }), stated.prompt, stated.params, 'import');
        await keep(picture).then(() => notice(t('gallery.imported', { name: file.name })), noticeError);
      }
    }
  }

  list.addEventListener('keydown', (event) => onKey(event, { list, chosen, remove, selectAll: () => { visible.forEach((each) => selected.add(each.id)); mark(); }, clear: () => { selected.clear(); mark(); }, toggle: (index) => choose(index, !selected.has(visible[index].id), event.shiftKey), at: (index) => visible[index] }));
  document.addEventListener('keydown', (event) => {
    if (event.key === '/' && !event.target.matches('input, textarea, select')) { event.preventDefault(); search.focus(); }
  }, { signal });
  fileDrop(root, signal, importFiles);
  onChange('pictures', signal, load);
  // Drawn before it is shown, so that nothing moves.
  await load();
  if (signal.aborted) return;
  fill(root, h('div', { class: 'head' }, h('h1', {}, t('nav.gallery')), status,
    button(t('gallery.import'), { icon: 'upload', onclick: () => files.click() }), files),
  h('div', { class: 'row wrap filters' }, h('div', { class: 'search' }, icon('search'), search), filters), bar, list, rest);
}

/** Arrows move, Space or X selects, Delete deletes, Ctrl+A selects all, Escape none; Enter opens, as on any button. */
function onKey(event, { list, chosen, remove, selectAll, clear, toggle, at }) {
  const item = event.target.closest('li');
  if (!item) return;
  const items = [...list.children];
  const index = items.indexOf(item);
  const columns = items.filter((each) => each.offsetTop === items[0].offsetTop).length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -index, End: items.length - 1 - index }[event.key];
  const onPicture = event.target.matches('.picture');
  const act = {
    x: () => toggle(index), ' ': onPicture ? () => toggle(index) : null, Escape: clear, a: event.ctrlKey || event.metaKey ? selectAll : null,
    Delete: () => remove(chosen().length ? chosen() : [at(index)]),
  }[event.key];
  if (step !== undefined) items[index + step]?.querySelector('.picture').focus();
  else if (act) act();
  else return;
  event.preventDefault();
}
