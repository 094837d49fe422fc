// One set: progress, its pictures as they come, and what the person notes on them: winners, names, tags, other tries.

import { blobOf, getJson, postJson, request, whileBusy } from '../api.js';
import { all, keep, marksOf, onChange, update } from '../database.js';
import { button, fill, h, icon, saveFile, select, sleep } from '../dom.js';
import { dialog, failed, loading, notice, noticeError, state } from '../feedback.js';
import { t } from '../i18n.js';
import { addressOf, imageOf, newPicture, openPicture, smallLooks, toPack } from '../pictures.js';
import { readParameters } from '../png.js';
import { isOpen, setProgress } from '../progress.js';
import { nameOf } from '../prompt.js';

const BUSY_MS = 1200;
const PAGE = 48;
const idOf = (index) => String(index).padStart(8, '0'); // as the service numbers the pictures of a set
const FILTERS = ['all', 'picked', 'failed', 'hidden'];

export async function mountDetail(root, id, signal, remove) {
  const items = new Map(); // by item_id
  const blobs = new Map();
  let set = null;
  let marks = new Map();
  let tries = new Map(); // pictures of the gallery that replace an item, by their id
  let filter = 'all';
  let wanted = PAGE;
  const head = h('div', { class: 'head' });
  const progress = h('div', { class: 'progress-line' });
  const bar = h('div', { class: 'row wrap' });
  const list = h('ul', { class: 'grid cards', 'aria-label': t('sets.pictures') });
  const rest = h('div', { class: 'row center' });
  fill(root, head, progress, bar, list, rest);
  fill(rest, loading());

  const mark = (item, fields) => update('marks', [id, item], { set: id, item, picked: false, tags: [], hidden: false }, fields).catch(noticeError);
  const markAll = async (found, fields) => { for (const { item_id: item } of found) await mark(item, fields); };
  const markOf = (item) => marks.get(item.item_id) ?? {};
  const nameFor = (item) => markOf(item).name ?? (/^\d{5}$/.test(item.custom_id) ? nameOf(item.prompt) : item.custom_id) + (item.number ? `_${item.number + 1}` : '');
  const isShown = (item) => ({
    all: !markOf(item).hidden, picked: markOf(item).picked && !markOf(item).hidden, failed: item.status !== 'ok', hidden: markOf(item).hidden,
  })[filter];

  async function loadMarks() {
    const found = await marksOf(id);
    const replaced = new Set([...found.values()].map((each) => each.picture).filter(Boolean));
    const pictures = replaced.size ? (await all('pictures')).filter((each) => replaced.has(each.id)) : [];
    [marks, tries] = [found, new Map(pictures.map((each) => [each.id, each]))];
    if (!signal.aborted && set) draw();
  }

  /** The picture of an item as one of the gallery: the person's own try if there is one, else the service's. */
  async function pictureOf(item) {
    const other = tries.get(markOf(item).picture);
    if (other) return other;
    const blob = blobs.get(item.item_id);
    const stated = (await readParameters(blob))?.params ?? {};
    const { negative_prompt, seed, steps, guidance_scale, scheduler, lora, model, model_key } = item;
    const params = { negative_prompt, seed, steps, guidance_scale, scheduler, lora, model, model_key, ...stated };
    // One picture of a set is one picture of the gallery, however often it is taken.
    return newPicture(blob, item.prompt, params, 'set', { id: `${id}/${item.item_id}`, name: nameFor(item), tags: markOf(item).tags ?? [], set: id });
  }

  async function take(found) {
    const ready = found.filter((item) => item.status === 'ok');
    const pictures = await Promise.all(ready.map(pictureOf));
    // Another try has the name and the tags of what it replaces.
    pictures.forEach((each, index) => Object.assign(each, { name: nameFor(ready[index]), tags: markOf(ready[index]).tags ?? each.tags }));
    await keep(...pictures.map((each) => ({ ...each, deletedAt: null })));
    return pictures;
  }

  async function reroll(item, card) {
    card.setAttribute('aria-busy', 'true');
    const { prompt, negative_prompt, steps, guidance_scale, scheduler, lora, model, width, height } = item;
    const optional = Object.fromEntries(Object.entries({ scheduler, lora, negative_prompt }).filter(([, value]) => value));
    const body = { prompt, num_inference_steps: steps, guidance_scale, model, size: `${width}x${height}`, background: 'transparent', ...optional };
    try {
      const { data: [{ b64_json, seed }] } = await whileBusy(() => postJson('v1/images/generations', body, { signal }), { signal });
      const blob = blobOf(b64_json);
      const params = { ...body, ...(await readParameters(blob))?.params, seed, model };
      const picture = newPicture(blob, prompt, params, 'set', { name: nameFor(item), set: id });
      await keep(picture);
      const before = markOf(item).picture ?? null;
      await mark(item.item_id, { picture: picture.id });
      notice(t('sets.rerolled', { name: nameFor(item) }), { undo: () => mark(item.item_id, { picture: before }) });
    } catch (error) {
      if (!signal.aborted) noticeError(error);
    }
    card.removeAttribute('aria-busy');
  }

  function edit(item) {
    const name = h('input', { value: nameFor(item), maxlength: 64 });
    const tags = h('input', { value: (markOf(item).tags ?? []).join(', '), maxlength: 200 });
    const save = async (event) => {
      event.preventDefault();
      const words = tags.value.split(',').map((each) => each.trim()).filter(Boolean);
      await mark(item.item_id, { name: name.value.trim() || undefined, tags: [...new Set(words)] });
      node.close();
    };
    const node = dialog(t('sets.edit'), h('form', { class: 'stack', onsubmit: save },
      h('label', { class: 'field' }, h('span', { class: 'label' }, t('param.name')), name), h('label', { class: 'field' }, h('span', { class: 'label' }, t('param.tags')), tags),
      h('div', { class: 'row' }, button(t('save'), { type: 'submit', class: 'primary' }))));
    name.select();
  }

  const inOrder = () => [...items.values()].sort((a, b) => (a.item_id < b.item_id ? -1 : 1));
  const shownItems = () => inOrder().filter(isShown);
  const picked = () => inOrder().filter((item) => item.status === 'ok' && markOf(item).picked && !markOf(item).hidden);

  function drawHead() {
    fill(head, h('h1', {}, set.name || t('sets.unnamed')), h('a', { class: 'button', href: '#sets' }, t('sets.all')),
      isOpen(set) && button(t('cancel'), { icon: 'close', onclick: () => postJson(`v1/emoji-sets/${id}/cancel`).then(poll, noticeError) }),
      set.counts.completed > 0 && button(t('sets.zip'), { icon: 'download', onclick: downloadAll }),
      button(t('action.delete'), { icon: 'remove', onclick: () => { remove(set); location.hash = '#sets'; } }));
    fill(progress, setProgress(set), set.errors.length > 0 && h('details', {}, h('summary', {}, t('sets.reasons')),
      h('ul', {}, set.errors.map((each) => h('li', {}, `${each.custom_id}: ${each.reason}`)))));
  }

  function drawBar() {
    const choice = select(FILTERS.map((each) => [each, t(`sets.filter_${each}`)]), filter, { 'aria-label': t('sets.filter'), onchange: () => { filter = choice.value; draw(); } });
    const winners = picked();
    const visible = shownItems().filter((item) => item.status === 'ok');
    const focused = bar.contains(document.activeElement) ? document.activeElement.dataset.act : null;
    fill(bar, choice,
      button(t('sets.pick_all'), { icon: 'check', 'data-act': 'pick', disabled: !visible.some((item) => !markOf(item).picked), onclick: () => markAll(visible, { picked: true }) }),
      winners.length > 0 && button(t('sets.pick_none'), { icon: 'close', 'data-act': 'none', onclick: () => markAll(winners, { picked: false }) }),
      button(t('sets.make_pack', { n: winners.length }), { icon: 'pack', class: 'primary', 'data-act': 'pack', disabled: !winners.length, onclick: makePack }),
      winners.length > 0 && button(t('sets.keep'), { icon: 'gallery', 'data-act': 'keep', onclick: () => take(winners).then((found) => notice(t('sets.kept', { n: found.length })), noticeError) }));
    if (focused) bar.querySelector(`[data-act="${focused}"]`)?.focus();
  }

  async function makePack() {
    try {
      await toPack(await take(picked()));
      location.hash = '#pack';
    } catch (error) {
      noticeError(error);
    }
  }

  async function downloadAll() {
    try {
      saveFile(await (await request(`v1/emoji-sets/${id}/zip`)).blob(), `${nameOf(set.name || 'set')}.zip`);
    } catch (error) {
      noticeError(error);
    }
  }

  function draw() {
    drawHead();
    drawBar();
    const visible = shownItems();
    const keys = new Set(visible.map((item) => item.item_id));
    for (const card of [...list.children]) if (!keys.has(card.dataset.id)) card.remove();
    visible.forEach((item, index) => {
      const key = JSON.stringify([markOf(item), tries.has(markOf(item).picture)]);
      const old = list.children[index]?.dataset.id === item.item_id ? list.children[index] : null;
      if (old?.dataset.key === key) return;
      const focused = old?.contains(document.activeElement) ? document.activeElement.dataset.act : null;
      const card = cardOf(item);
      card.dataset.key = key;
      if (old) old.replaceWith(card);
      else list.insertBefore(card, list.children[index] ?? null);
      if (focused) card.querySelector(`[data-act="${focused}"]`)?.focus();
    });
    const finished = set.counts.completed + set.counts.failed;
    fill(rest, items.size < finished && items.size >= wanted && button(t('show_more'), { onclick: () => { wanted += PAGE; loadItems().catch(noticeError); } }),
      !visible.length && (items.size ? state('empty', t('sets.no_match')) : set.counts.pending && set.status !== 'cancelled' ? state('loading', t('sets.soon')) : state('empty', t('sets.no_pictures'))));
  }

  function cardOf(item) {
    const { picked: won, tags = [], hidden } = markOf(item);
    const name = nameFor(item);
    if (item.status !== 'ok') {
      return h('li', { class: 'card broken', 'data-id': item.item_id }, h('div', { class: 'picture' }, icon('warning')), h('p', { class: 'problem' }, item.reason), h('div', { class: 'caption' }, h('span', { title: item.prompt }, name)));
    }
    const blob = tries.get(markOf(item).picture)?.blob ?? blobs.get(item.item_id);
    const url = addressOf(blob, signal);
    const card = h('li', { class: won ? 'card won' : 'card', 'data-id': item.item_id },
      h('button', { type: 'button', class: 'picture ground checker', 'data-act': 'open', 'aria-label': t('picture.open', { name }), onclick: async () => openPicture(await pictureOf(item), { editable: false }) }, imageOf(url, 96)),
      smallLooks(url), h('div', { class: 'caption' }, h('button', { type: 'button', class: 'name', 'data-act': 'edit', title: item.prompt, 'aria-label': t('sets.edit_name', { name }), onclick: () => edit(item) }, name)),
      tags.length > 0 && h('p', { class: 'tags' }, tags.map((tag) => h('span', { class: 'tag' }, tag))),
      h('div', { class: 'acts' },
        button(t('sets.pick', { name }), { icon: 'star', quiet: true, class: won ? 'bare on' : 'bare', 'data-act': 'pick', 'aria-pressed': String(Boolean(won)), onclick: () => mark(item.item_id, { picked: !won }) }),
        button(t('sets.reroll', { name }), { icon: 'reroll', quiet: true, class: 'bare', 'data-act': 'reroll', onclick: () => reroll(item, card) }),
        hidden ? button(t('gallery.restore'), { icon: 'recall', quiet: true, class: 'bare', onclick: () => mark(item.item_id, { hidden: false }) })
          : button(t('action.delete_name', { name }), { icon: 'remove', quiet: true, class: 'bare', 'data-act': 'remove', onclick: async () => {
            await mark(item.item_id, { hidden: true });
            notice(t('sets.hid', { name }), { undo: () => mark(item.item_id, { hidden: false }) });
          } })));
    return card;
  }

  /** Take what is finished and not here yet, up to the number that is wanted; shards do not finish in order. */
  async function loadItems() {
    const finished = set.counts.completed + set.counts.failed;
    let next = 0;
    while (items.has(idOf(next))) next += 1;
    for (let more = items.size < finished; more && next < wanted && !signal.aborted;) {
      const page = await getJson(`v1/emoji-sets/${id}/items?images=true&limit=${PAGE}${next ? `&after=${idOf(next - 1)}` : ''}`, { signal });
      for (const { b64_json, file, ...item } of page.data) {
        if (b64_json && !blobs.has(item.item_id)) blobs.set(item.item_id, blobOf(b64_json));
        items.set(item.item_id, item);
        next = Number(item.item_id) + 1;
      }
      more = page.has_more;
    }
    if (!signal.aborted) draw();
  }

  async function poll() {
    set = await getJson(`v1/emoji-sets/${id}`, { signal });
    await loadItems();
    return isOpen(set);
  }

  onChange('marks', signal, loadMarks);
  await loadMarks();
  for (let open = true; open && !signal.aborted;) {
    try {
      open = await poll();
    } catch (error) {
      if (signal.aborted) return;
      // A set that is gone stays gone; anything else may pass, and the page goes on asking.
      if (error.status === 404 || !set) { fill(rest, failed(error, () => { fill(rest, loading()); mountDetail(root, id, signal, remove); })); return; }
    }
    if (open) await sleep(BUSY_MS, signal).catch(() => {});
  }
}
