// Pack: the chosen pictures under their names, as a file that a chat or a sticker shop takes.

import { getJson, request } from '../api.js';
import { all, get, onChange, put, remove, update } from '../database.js';
import { button, field, fill, h, saveFile, select } from '../dom.js';
import { explain, failed, loading, notice, state } from '../feedback.js';
import { loadDraft, saveDraft } from '../fields.js';
import { t } from '../i18n.js';
import { addressOf, imageOf } from '../pictures.js';
import { nameOf, uniqueNames } from '../prompt.js';

const DEFAULTS = { target: '', packName: '', outline: '', license: '' };
const NAME = /^[A-Za-z0-9_]{2,32}$/; // what every target takes

export async function mount(root, { signal }) {
  fill(root, loading());
  let targets;
  try {
    ({ targets } = await getJson('v1/packs/targets', { signal }));
  } catch (error) {
    if (!signal.aborted) fill(root, error.status === 404 ? state('empty', t('pack.none'), t('pack.none_hint')) : failed(error, () => mount(root, { signal })));
    return;
  }
  if (signal.aborted) return;
  const draft = loadDraft('pack', DEFAULTS);
  if (!targets.some(({ id }) => id === draft.target)) draft.target = targets[0].id;
  const save = () => saveDraft('pack', draft);
  const list = h('ol', { class: 'pack-list', 'aria-label': t('pack.pictures') });
  const facts = h('p', { class: 'hint' });
  const mock = h('div', { class: 'mocks' });
  const problem = h('p', { class: 'problem', role: 'alert' });
  const count = h('p', { class: 'count', role: 'status' });
  const make = button(t('pack.make'), { type: 'submit', icon: 'download', class: 'primary big' });
  let entries = []; // {id, name, position, picture}
  let addresses = new AbortController();
  signal.addEventListener('abort', () => addresses.abort());

  async function load() {
    const found = (await all('pack')).sort((a, b) => a.position - b.position);
    const pictures = await Promise.all(found.map(({ id }) => get('pictures', id)));
    if (signal.aborted) return;
    entries = found.map((entry, index) => ({ ...entry, picture: pictures[index] })).filter(({ picture }) => picture && !picture.deletedAt);
    // Two pictures of one name would be one emoji.
    const names = uniqueNames(entries.map(({ name }) => name));
    const renamed = entries.flatMap((entry, index) => (entry.name === names[index] ? [] : [{ id: entry.id, position: entry.position, name: names[index] }]));
    if (renamed.length) { await put('pack', ...renamed); return; }
    draw();
  }

  const targetNow = () => targets.find(({ id }) => id === draft.target);

  function draw() {
    addresses.abort();
    addresses = new AbortController();
    const focused = list.contains(document.activeElement) ? [document.activeElement.closest('li').dataset.id, document.activeElement.dataset.act] : null;
    const urls = new Map(entries.map(({ id, picture }) => [id, addressOf(picture.blob, addresses.signal)]));
    fill(list, entries.map((entry, index) => rowOf(entry, urls.get(entry.id), index)));
    if (focused) list.querySelector(`[data-id="${CSS.escape(focused[0])}"] [data-act="${focused[1]}"]`)?.focus();
    count.textContent = t('pack.count', { n: entries.length });
    empty.hidden = entries.length > 0;
    make.disabled = !entries.length;
    drawFacts();
    drawMock(urls);
  }

  function rowOf(entry, url, index) {
    const name = h('input', { value: entry.name, maxlength: 32, 'data-act': 'name', 'aria-label': t('pack.name_of', { number: index + 1 }), oninput: () => valid(), onchange: () => { if (valid()) update('pack', entry.id, { id: entry.id, position: entry.position }, { name: name.value }); } });
    const valid = () => {
      const good = NAME.test(name.value) && !entries.some((each) => each !== entry && each.name === name.value);
      name.setCustomValidity(good ? '' : t('pack.bad_name'));
      name.setAttribute('aria-invalid', String(!good));
      hint.textContent = good ? '' : t('pack.bad_name');
      return good;
    };
    const hint = h('small', { class: 'problem' });
    const move = (by) => async () => {
      const other = entries[index + by];
      await put('pack', { id: entry.id, name: entry.name, position: other.position }, { id: other.id, name: other.name, position: entry.position });
    };
    return h('li', { 'data-id': entry.id }, h('span', { class: 'picture ground checker' }, imageOf(url, 48)), h('div', { class: 'grow' }, name, hint),
      button(t('pack.up', { name: entry.name }), { icon: 'up', quiet: true, class: 'bare', 'data-act': 'up', disabled: index === 0, onclick: move(-1) }),
      button(t('action.delete_name', { name: entry.name }), { icon: 'close', quiet: true, class: 'bare', 'data-act': 'remove', onclick: async () => {
        await remove('pack', entry.id);
        notice(t('pack.removed', { name: entry.name }), { undo: () => put('pack', { id: entry.id, name: entry.name, position: entry.position }) });
      } }));
  }

  function drawFacts() {
    const { size_px: side, max_bytes: most, format, slots, min_images: fewest = 1, max_images: largest = Infinity } = targetNow();
    const sizes = [].concat(slots ?? []).filter((each) => typeof each === 'number');
    facts.textContent = [side && `${side} px`, format, most && t('pack.below', { size: Math.round(most / 1024) }), sizes.length && t('pack.slots', { slots: sizes.join(' / ') }),
      entries.length > Math.min(largest, sizes.length ? Math.max(...sizes) : Infinity) && t('pack.too_many'), entries.length > 0 && entries.length < fewest && t('pack.too_few', { count: fewest })].filter(Boolean).join(' · ');
  }

  /** The first pictures as they will be seen: in a line of chat, light and dark. */
  function drawMock(urls) {
    fill(mock, entries.length > 0 && ['light', 'dark'].map((theme) => h('div', { class: `mock ${theme}`, 'aria-hidden': 'true' },
      h('p', {}, h('strong', {}, 'linh '), t('pack.chat'), ' ', entries.slice(0, 3).map(({ id }) => imageOf(urls.get(id), 22))),
      h('p', { class: 'large' }, entries.slice(0, 3).map(({ id }) => imageOf(urls.get(id), 44))))));
  }

  async function submit(event) {
    event.preventDefault();
    problem.textContent = '';
    if (list.querySelector('[aria-invalid=true]')) { list.querySelector('[aria-invalid=true]').focus(); return; }
    const form = new FormData();
    const title = draft.packName.trim() || 'emoji';
    form.append('target', draft.target);
    form.append('name', title);
    if (Number(draft.outline) > 0) form.append('outline', String(Number(draft.outline)));
    if (draft.license.trim()) form.append('license', draft.license.trim());
    for (const { name, picture } of entries) form.append('image', picture.blob, `${name}.${picture.blob.type.split('/')[1] ?? 'png'}`);
    make.disabled = true;
    make.setAttribute('aria-busy', 'true');
    try {
      const blob = await (await request('v1/packs', { method: 'POST', form, signal })).blob();
      saveFile(blob, `${nameOf(title)}-${draft.target}.zip`);
      notice(t('pack.done', { n: entries.length, title: targetNow().title }));
    } catch (error) {
      if (!signal.aborted) problem.textContent = explain(error);
    }
    make.disabled = false;
    make.removeAttribute('aria-busy');
  }

  const target = select(targets.map(({ id, title }) => [id, title]), draft.target, { name: 'target', onchange: () => { draft.target = target.value; save(); drawFacts(); } });
  const name = h('input', { name: 'name', value: draft.packName, maxlength: 64, placeholder: 'emoji', oninput: () => { draft.packName = name.value; save(); } });
  const outline = h('input', { type: 'number', name: 'outline', min: 0, max: 16, value: draft.outline, placeholder: '0', oninput: () => { draft.outline = outline.value; save(); } });
  const license = h('input', { name: 'license', value: draft.license, maxlength: 200, placeholder: 'CC-BY-4.0', oninput: () => { draft.license = license.value; save(); } });
  const empty = h('div', {}, state('empty', t('pack.empty'), t('pack.empty_hint'), h('a', { class: 'button', href: '#gallery' }, t('nav.gallery')), h('a', { class: 'button', href: '#sets' }, t('nav.sets'))));
  const clear = button(t('pack.clear'), { icon: 'remove', onclick: async () => {
    const before = entries.map(({ id, name: own, position }) => ({ id, name: own, position }));
    await remove('pack', ...before.map(({ id }) => id));
    if (before.length) notice(t('pack.cleared'), { undo: () => put('pack', ...before) });
  } });
  // Drawn before it is shown, so that nothing moves.
  onChange('pack', signal, load);
  await load();
  if (signal.aborted) return;
  fill(root, h('div', { class: 'head' }, h('h1', {}, t('nav.pack')), count, clear),
    h('form', { class: 'panel stack', novalidate: true, onsubmit: submit, 'aria-label': t('nav.pack') }, field(t('pack.target'), target), facts, field(t('pack.title'), name), h('div', { class: 'pair' }, field(t('pack.outline'), outline, t('pack.outline_hint')), field(t('pack.license'), license, t('pack.license_hint'))), mock, problem, h('div', { class: 'submit' }, make)),
    h('div', { class: 'results' }, empty, list));
}
