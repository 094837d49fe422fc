// What became of every URL that a crawl asked for: counts, and the URLs of one outcome with their reasons.

import { datasetPath, pagedList } from '../datasets.js';
import { fill, h } from '../dom.js';
import { state } from '../feedback.js';
import { t } from '../i18n.js';
import { linkOf } from './data_image.js';

const PAGE = 50;

export async function showOutcomes(root, { version, card, signal }) {
  const chosen = { kind: '', outcome: '' };
  let pinned = version;
  const list = h('ul', { class: 'url-list', 'aria-label': t('data.outcomes') });
  const rest = h('div', { class: 'row center' });
  const counts = h('div', { class: 'stack tight' });
  if (!Object.keys(card.outcomes).length) { fill(root, state('empty', t('data.no_outcomes'), t('data.no_outcomes_hint'))); return; }

  function drawCounts() {
    const one = (kind, outcome, n) => {
      const isChosen = kind === chosen.kind && outcome === chosen.outcome;
      return h('button', { type: 'button', class: 'value', 'aria-pressed': String(isChosen), onclick: () => choose(isChosen ? '' : kind, isChosen ? '' : outcome) }, `${outcome} ${n.toLocaleString(document.documentElement.lang)}`);
    };
    const focused = document.activeElement?.textContent;
    fill(counts, Object.entries(card.outcomes).map(([kind, own]) => h('div', { class: 'values', role: 'group', 'aria-label': kind }, h('span', { class: 'label' }, t(`data.of_${kind === 'page' ? 'pages' : 'images'}`)), Object.entries(own).map(([outcome, n]) => one(kind, outcome, n)))));
    [...counts.querySelectorAll('button')].find((each) => each.textContent === focused)?.focus();
  }

  const start = pagedList(rest, { signal,
    path: (after) => datasetPath(after ? pinned : version, `/outcomes?${new URLSearchParams({ limit: PAGE, ...chosen, ...(after ? { after } : {}) })}`),
    draw: (page, isFirst) => {
      if (isFirst) fill(list);
      pinned = page.version;
      for (const each of page.data) {
        list.append(h('li', {}, h('span', { class: `tag ${each.outcome}` }, each.outcome), h('span', { class: 'address' }, linkOf(each.url)),
          h('span', { class: 'quiet' }, [each.http_status, each.reason].filter(Boolean).join(' · '))));
      }
    },
    empty: () => state('empty', t('data.no_match'), '') });

  function choose(kind, outcome) {
    Object.assign(chosen, { kind, outcome });
    drawCounts();
    start();
  }
  drawCounts();
  fill(root, counts, list, rest);
  await start();
}
