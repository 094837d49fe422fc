// The difference of two versions in pictures: what was added, removed, changed, or described otherwise.

import { datasetPath, pagedList, versionSelect } from '../datasets.js';
import { fill, h } from '../dom.js';
import { state } from '../feedback.js';
import { t } from '../i18n.js';
import { remotePicture } from '../remote_pictures.js';

const PAGE = 24;
const KINDS = ['added', 'removed', 'changed', 'captions'];
let since = ''; // stays while the page is open

export async function showChanges(root, { version, versions, signal }) {
  const others = versions.filter((each) => each.id !== version);
  const known = others.some((each) => each.id === since);
  // Without a choice: the newest tag, or the oldest commit that is listed.
  if (!known) since = (others.find((each) => each.kind === 'tag') ?? others.filter((each) => each.kind === 'commit').pop())?.id ?? '';
  const list = h('ul', { class: 'grid changes', 'aria-label': t('data.changes') });
  const rest = h('div', { class: 'row center' });
  const kinds = h('div', { class: 'values', role: 'group', 'aria-label': t('data.kinds') });
  let kind = '';
  let ends = { before: since, after: version };

  const start = pagedList(rest, { signal,
    path: (after) => datasetPath(after ? ends.after : version, `/changes?${new URLSearchParams({ since: after ? ends.before : since, limit: PAGE, ...(kind ? { kind } : {}), ...(after ? { after } : {}) })}`),
    draw: (page, isFirst) => {
      if (isFirst) fill(list);
      ends = page;
      drawKinds(page.kinds);
      list.append(...page.data.map((each) => changeOf(each, page, signal)));
    },
    empty: () => state('empty', t('data.no_changes'), t('data.no_changes_hint')) });

  function drawKinds(counts) {
    const focused = document.activeElement?.dataset?.kind;
    fill(kinds, KINDS.map((each) => h('button', { type: 'button', class: 'value', 'data-kind': each, 'aria-pressed': String(kind === each), disabled: !counts[each],
      onclick: () => { kind = kind === each ? '' : each; start(); } }, `${t(`data.${each}`)} ${counts[each].toLocaleString(document.documentElement.lang)}`)));
    if (focused) kinds.querySelector(`[data-kind="${focused}"]`)?.focus();
  }

  if (!others.length) { fill(root, state('empty', t('data.one_version'), t('data.one_version_hint'))); return; }
  const choose = (next) => { since = next; kind = ''; start(); };
  fill(root, h('div', { class: 'row wrap filters' }, h('span', { class: 'label' }, t('data.since')), versionSelect(versions, since, choose, { label: t('data.since'), exclude: version }), kinds), list, rest);
  await start();
}

function changeOf(change, page, signal) {
  const { before, after } = change;
  const sides = [[before, page.before], [after, page.after]].filter(([image]) => image);
  // An image whose pixels are the same is shown once.
  const shown = change.change === 'captions' ? sides.slice(-1) : sides;
  const title = (after ?? before).title || change.id.slice(0, 12);
  return h('li', { class: `card change ${change.change}` },
    h('div', { class: 'row center' }, shown.map(([image, version]) => h('span', { class: 'picture ground checker' },
      remotePicture(datasetPath(version, `/images/${encodeURIComponent(image.id)}/thumbnail?size=192`), 88, title, signal)))),
    h('div', { class: 'row wrap' }, h('strong', { class: 'clip' }, title), h('span', { class: 'tag' }, t(`data.${change.change}`))),
    change.fields.length > 0 && h('p', { class: 'quiet' }, change.fields.join(', ')), words(before, after));
}

/** The captions on both sides, where they differ. */
function words(before, after) {
  const [old, now] = [before, after].map((image) => image?.captions.filter((each) => each.used).map((each) => each.caption).join('\n') ?? '');
  if (old === now) return now && h('p', { class: 'words' }, now);
  const part = (tag, label, text) => text && h('p', {}, h('span', { class: 'visually-hidden' }, t(label)), h(tag, {}, text));
  return h('div', { class: 'stack tight' }, part('del', 'data.before', old), part('ins', 'data.after', now));
}
