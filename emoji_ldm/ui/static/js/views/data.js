// Data: a version of the data set, its emoji with captions, what became of every URL, and what another version changes.

import { getJson } from '../api.js';
import { datasetPath, versionSelect } from '../datasets.js';
import { fill, h } from '../dom.js';
import { failed, loading, state } from '../feedback.js';
import { t } from '../i18n.js';
import { showChanges } from './data_changes.js';
import { showImages } from './data_images.js';
import { showOutcomes } from './data_outcomes.js';

const TABS = { images: showImages, outcomes: showOutcomes, changes: showChanges };

export async function mount(root, { signal, path }) {
  const [version = 'main', tab = 'images'] = path;
  fill(root, loading());
  let versions;
  let card;
  try {
    [{ data: versions }, card] = await Promise.all([getJson('v1/datasets', { signal }), getJson(datasetPath(version), { signal })]);
  } catch (error) {
    if (!signal.aborted) fill(root, problem(error, version, () => mount(root, { signal, path })));
    return;
  }
  if (signal.aborted) return;
  const shown = tab in TABS ? tab : 'images';
  const body = h('section', { class: 'data-body', 'aria-label': t(`data.${shown}`) });
  const summary = h('p', { class: 'count', role: 'status' }, facts(card));
  const renew = async () => { summary.textContent = facts(await getJson(datasetPath(version), { signal })); };
  fill(root, h('div', { class: 'head' }, h('h1', {}, t('nav.data')), summary, versionSelect(versions, version, (next) => { location.hash = `#data/${encodeURIComponent(next)}/${shown}`; })),
    h('nav', { class: 'tabs', 'aria-label': t('data.parts') }, Object.keys(TABS).map((name) => h('a', { href: `#data/${encodeURIComponent(version)}/${name}`, 'aria-current': name === shown ? 'page' : null }, t(`data.${name}`)))), body);
  const writable = versions.some((each) => each.id === version && each.kind === 'line');
  await TABS[shown](body, { version, card, versions, writable, signal, renew: () => renew().catch(() => {}) });
}

function facts({ tables, captions }) {
  const good = Object.values(captions).reduce((sum, each) => sum + (each.ok ?? 0), 0);
  const parts = [t('data.num_images', { n: tables.images.rows }), t('data.num_captions', { n: good })];
  if (captions.human?.ok) parts.push(t('data.num_human', { n: captions.human.ok }));
  return parts.join(' · ');
}

function problem(error, version, retry) {
  if (error.status === 403) return state('empty', t('data.forbidden'), error.message);
  if (error.code === 'unknown_url') return state('empty', t('data.not_here'), t('data.not_here_hint'));
  if (error.code === 'no_dataset') return state('empty', t('data.empty'), t('data.empty_hint'));
  if (error.code === 'version_not_found') {
    return state('error', t('data.no_version', { name: version }), error.message, h('a', { class: 'button primary', href: '#data' }, t('data.to_main')));
  }
  return failed(error, retry);
}
