// The images of a version: search, filter, and open one to correct its caption.

import { datasetPath, pagedList } from '../datasets.js';
import { button, debounce, fill, h, icon, select } from '../dom.js';
import { state } from '../feedback.js';
import { t } from '../i18n.js';
import { remotePicture } from '../remote_pictures.js';
import { openImage } from './data_image.js';

const PAGE = 48;
const STATES = ['any', 'captioned', 'human', 'uncaptioned'];

export async function showImages(root, context) {
  const { version, signal, writable, renew } = context;
  const filter = { search: '', tag: '', captions: 'any' };
  const list = h('ul', { class: 'grid cards', 'aria-label': t('data.images') });
  const rest = h('div', { class: 'row center' });
  const status = h('p', { class: 'count', role: 'status' });
  let found = [];
  let pinned = version;
  const nodes = new Map();

  const path = (after) => {
    const query = new URLSearchParams({ limit: PAGE, ...filter });
    if (after) query.set('after', after);
    // Pages after the first one are of the version of the first, whatever is committed meanwhile.
    return datasetPath(after ? pinned : version, `/images?${query}`);
  };
  const start = pagedList(rest, { signal, path,
    draw: (page, isFirst) => {
      if (isFirst) { found = []; nodes.clear(); fill(list); }
      pinned = page.version;
      found.push(...page.data);
      for (const image of page.data) { nodes.set(image.id, card(image)); list.append(nodes.get(image.id)); }
    },
    note: (count, more) => { status.textContent = t(more ? 'data.shown_more' : 'data.shown', { n: count }); },
    empty: () => state('empty', t('data.no_match'), t('gallery.no_match_hint')) });

  function card(image) {
    const caption = image.captions.find((each) => each.used);
    return h('li', { class: `card ${caption?.engine === 'human' ? 'won' : ''}`, 'data-id': image.id },
      h('button', { type: 'button', class: 'picture ground checker', 'aria-label': t('picture.open', { name: image.title || image.id }), onclick: () => open(image) },
        remotePicture(datasetPath(pinned, `/images/${encodeURIComponent(image.id)}/thumbnail?size=192`), 96, '', signal)),
      h('strong', { class: 'clip' }, image.title || image.id.slice(0, 12)),
      h('p', { class: 'words' }, caption?.caption ?? t('data.no_caption')),
      h('div', { class: 'tags' }, caption?.engine === 'human' && h('span', { class: 'tag' }, t('data.by_person')),
        image.num_duplicates > 0 && h('span', { class: 'tag' }, t('data.num_duplicates', { n: image.num_duplicates })),
        image.tags.filter((each) => !each.startsWith('license:')).slice(0, 3).map((each) => h('button', { type: 'button', class: 'tag', onclick: () => { filter.tag = tag.value = each; start(); } }, each))));
  }

  function open(image) {
    openImage(found.find(({ id }) => id === image.id), { version, pinned, writable, changed, neighbour });
  }

  /** A corrected image takes its place in the list. */
  function changed(image) {
    found = found.map((each) => (each.id === image.id ? image : each));
    const old = nodes.get(image.id);
    nodes.set(image.id, card(image));
    old?.replaceWith(nodes.get(image.id));
    renew();
  }

  const neighbour = (image, step) => found[found.findIndex(({ id }) => id === image.id) + step];

  const soon = debounce(start, 300);
  const search = h('input', { type: 'search', placeholder: t('data.search'), 'aria-label': t('data.search'), name: 'search', maxlength: 200, oninput: () => { filter.search = search.value.trim(); soon(); } });
  const tag = h('input', { placeholder: t('data.tag'), 'aria-label': t('data.tag'), name: 'tag', maxlength: 200, oninput: () => { filter.tag = tag.value.trim(); soon(); } });
  const captions = select(STATES.map((each) => [each, t(`data.captions_${each}`)]), filter.captions, { 'aria-label': t('data.captions'), name: 'captions', onchange: () => { filter.captions = captions.value; start(); } });
  const clear = button(t('data.clear'), { icon: 'close', quiet: true, onclick: () => { Object.assign(filter, { search: '', tag: '', captions: 'any' }); search.value = tag.value = ''; captions.value = 'any'; start(); } });
  fill(root, h('div', { class: 'row wrap filters' }, h('div', { class: 'search' }, icon('search'), search), h('div', { class: 'tag-filter' }, tag), captions, clear, status), list, rest);
  await start();
}
