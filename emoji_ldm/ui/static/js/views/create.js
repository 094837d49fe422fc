// Create: a prompt becomes pictures, drawn while the person watches.

import { getModels } from '../api.js';
import { gallery, onChange } from '../database.js';
import { button, fill, h } from '../dom.js';
import { drawLoaded, explain, notice, state } from '../feedback.js';
import { duration, t } from '../i18n.js';
import { addressOf, imageOf, openPicture, smallLooks, toPack } from '../pictures.js';
import { cancelRun, resumeRun, runEvents, runs, startRun } from '../runs.js';
import { createForm } from './create_form.js';

const NUM_RECENT = 24;
const SIDE_PX = 128;

export const mount = (root, { signal }) => drawLoaded(root, signal, getModels, (models) => drawCreate(root, models, signal));

async function drawCreate(root, models, signal) {
  const board = h('div', { class: 'runs' });
  const recent = h('section', { class: 'recent', 'aria-labelledby': 'recent-title' });
  fill(root, h('h1', { class: 'visually-hidden' }, t('nav.create')), createForm(models, draw, signal),
    h('div', { class: 'results' }, board, recent));

  function draw(draft, files) {
    const run = startRun(draft, files);
    drawRuns();
    if (matchMedia('(max-width: 900px)').matches) sections.get(run.id)?.scrollIntoView({ behavior: 'smooth', block: 'start' });
  }

  const sections = new Map();
  function drawRuns() {
    for (const run of runs) if (!sections.has(run.id)) sections.set(run.id, h('section', { class: 'run', 'data-run': run.id }));
    for (const run of runs) drawRun(sections.get(run.id), run, signal);
    board.replaceChildren(...runs.map((run) => sections.get(run.id)));
  }
  runEvents.addEventListener('change', ({ detail: run }) => {
    if (sections.has(run.id)) drawRun(sections.get(run.id), run, signal);
    else drawRuns();
  }, { signal });

  async function drawRecent() {
    const shown = new Set(runs.flatMap((run) => run.slots.map((slot) => slot.picture?.id)));
    const found = (await gallery()).filter((each) => !shown.has(each.id)).slice(0, NUM_RECENT);
    if (signal.aborted) return;
    if (!found.length && !runs.length) {
      fill(recent, state('empty', t('create.empty'), t('create.empty_hint')));
    } else {
      fill(recent, found.length > 0 && [h('h2', { id: 'recent-title' }, t('create.recent')),
        h('div', { class: 'grid small' }, found.map((each) => pictureButton(each, signal, 64)))]);
    }
  }
  onChange('pictures', signal, drawRecent);
  drawRuns();
  await drawRecent();
}

function pictureButton(picture, signal, side) {
  return h('button', { type: 'button', class: 'picture ground checker', 'aria-label': t('picture.open', { name: picture.prompt }),
    onclick: () => openPicture(picture) }, imageOf(addressOf(picture.blob, signal), side));
}

const STATES = {
  waiting: (run) => t('run.waiting', { seconds: run.waits }),
  drawing: (run) => [t('run.drawing', { done: numDone(run), n: run.slots.length }), queueOf(run)].filter(Boolean).join(' · '),
  done: (run) => t('run.done', { n: run.slots.length, time: duration((run.ended - run.started) / 1000) }),
  cancelled: (run) => t('run.cancelled', { done: numDone(run) }),
  failed: (run) => explain(run.error),
};
/** The place of the first picture that waits, and when the last one is expected; empty if none waits. */
function queueOf(run) {
  const waiting = run.slots.filter((slot) => !slot.picture && slot.place > 0);
  if (!waiting.length) return '';
  const eta = Math.max(...waiting.map((slot) => slot.eta));
  return t('run.queued', { place: Math.min(...waiting.map((slot) => slot.place)), time: duration(eta) });
}

const numDone = (run) => run.slots.filter((slot) => slot.picture).length;

/** One request: its prompt and state in a line, then its pictures. Slots that have not changed keep their elements. */
function drawRun(section, run, signal) {
  const busy = run.state === 'drawing' || run.state === 'waiting';
  const done = run.slots.filter((slot) => slot.picture).map((slot) => slot.picture);
  section.grid ??= h('div', { class: 'grid' });
  section.setAttribute('aria-busy', busy);
  run.slots.forEach((slot, index) => {
    const key = slot.picture?.id ?? `${slot.progress ?? 0}-${slot.place ?? 0}-${busy}`;
    const old = section.grid.children[index];
    if (old?.dataset.key === key) return;
    const node = slotOf(run, slot, busy, signal);
    node.dataset.key = key;
    if (old) old.replaceWith(node);
    else section.grid.append(node);
  });
  // The line is drawn anew with every change; a person who is on one of its buttons stays there.
  const onButton = document.activeElement?.closest('.run-head')?.parentElement === section;
  fill(section,
    h('div', { class: 'run-head' }, h('h2', {}, run.prompt),
      h('p', { class: `status ${run.state}`, role: run.state === 'failed' ? 'alert' : null }, STATES[run.state](run)),
      h('div', { class: 'row' },
        busy && button(t('cancel'), { icon: 'close', onclick: () => cancelRun(run) }),
        (run.state === 'failed' || run.state === 'cancelled') && numDone(run) < run.slots.length
          && button(t('run.resume'), { icon: 'reroll', onclick: () => resumeRun(run) }),
        !busy && done.length > 0 && button(t('action.all_to_pack'), { icon: 'pack', onclick: () => toPack(done) }))),
    busy && h('progress', { max: run.slots.length, value: numDone(run), 'aria-label': t('run.progress') }),
    section.grid);
  if (onButton) section.querySelector('.run-head button')?.focus();
}

function slotOf(run, slot, busy, signal) {
  if (slot.picture) {
    const { picture } = slot;
    const url = addressOf(picture.blob, signal);
    return h('figure', { class: 'card' },
      h('button', { type: 'button', class: 'picture ground checker', onclick: () => openPicture(picture), 'aria-label': t('picture.open', { name: picture.prompt }) },
        imageOf(url, SIDE_PX)),
      smallLooks(url),
      h('figcaption', {}, t('picture.seed', { seed: String(picture.params.seed) }),
        button(t('action.more_like'), { icon: 'reroll', quiet: true, class: 'bare', onclick: () => again(run, picture) })));
  }
  return h('figure', { class: 'card pending' },
    h('div', { class: 'picture ground checker' }, slot.preview ? imageOf(addressOf(slot.preview, signal), SIDE_PX, t('picture.preview'))
      : busy && h('span', { class: 'spinner', 'aria-hidden': 'true' })),
    h('figcaption', {}, busy ? (slot.progress ? t('picture.preview_number', { count: slot.progress }) : slot.place ? t('picture.place', { place: slot.place }) : t('picture.pending')) : t('picture.none')));
}

/** The same request again with other seeds. */
function again(run, picture) {
  startRun({ ...run.draft, seedMode: 'random', n: run.draft.n }, run.files);
  notice(t('run.again', { name: picture.name }));
}
