// Training: the runs of the store, the one that was active last first, and one of them as it goes on.

import { getJson } from '../api.js';
import { fill, h } from '../dom.js';
import { loading, state } from '../feedback.js';
import { moment, t } from '../i18n.js';
import { poll } from '../polling.js';
import { trainingProblem } from '../trainings.js';
import { mountTraining } from './training_detail.js';

const PAUSE_MS = 10_000;
const PAGE = 50;

export async function mount(root, { signal, path }) {
  if (path[0]) await mountTraining(root, path[0], path[1] ?? 'train', signal);
  else await mountList(root, signal);
}

async function mountList(root, signal) {
  const list = h('ul', { class: 'set-list', 'aria-label': t('training.runs') });
  const rest = h('div', { class: 'row center' }, loading());
  fill(root, h('div', { class: 'head' }, h('h1', {}, t('nav.training'))), list, rest);
  await new Promise((resolve) => {
    // The view counts as drawn once the first answer is there; asking goes on.
    poll(async () => {
      try {
        const { data } = await getJson(`v1/runs?limit=${PAGE}`, { signal });
        if (signal.aborted) return 0;
        drawList(list, data);
        fill(rest, !data.length && state('empty', t('training.empty'), t('training.empty_hint')));
      } catch (error) {
        if (!signal.aborted && !list.children.length) fill(rest, trainingProblem(error, () => mountList(root, signal)));
      }
      resolve();
      return PAUSE_MS;
    }, signal);
    signal.addEventListener('abort', resolve, { once: true });
  });
}

function drawList(list, runs) {
  const focused = document.activeElement?.closest?.('a')?.getAttribute('href');
  fill(list, runs.flatMap((run) => run.sections.map((each) => h('li', { class: 'set' },
    h('a', { href: `#training/${encodeURIComponent(run.id)}/${each.section}` }, h('strong', {}, run.id), h('span', { class: 'quiet' }, t(`training.${each.section}`))),
    h('span', { class: `status ${each.live ? 'live' : ''}` }, each.live ? t('training.live') : t('training.last', { time: moment(each.updated_at * 1000) }))))));
  if (focused) [...list.querySelectorAll('a')].find((each) => each.getAttribute('href') === focused)?.focus();
}
