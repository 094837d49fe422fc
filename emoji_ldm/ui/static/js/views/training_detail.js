// One training: how far it is, its curves, figures, film, warnings, and checkpoints that one button puts into service.

import { getJson, modelsChanged, request } from '../api.js';
import { button, fill, h, select } from '../dom.js';
import { loading, notice, noticeError } from '../feedback.js';
import { duration, t } from '../i18n.js';
import { poll } from '../polling.js';
import { ago, trainingProblem } from '../trainings.js';
import { chart, short } from './training_chart.js';
import { film } from './training_film.js';

const [LIVE_MS, QUIET_MS] = [3000, 20_000];
const TOGETHER = { loss: ['loss', 'validation_loss', 'validation_loss_ema'] };
const SINGLE = ['grad_norm', 'lr', 'images_per_s', 'peak_memory_mb'];
const SHARES = ['data_wait', 'communication', 'saving', 'mfu'];
const MAX_NAME = 63; // characters of a model's name

export async function mountTraining(root, run, section, signal) {
  const path = `v1/runs/${encodeURIComponent(run)}/${encodeURIComponent(section)}`;
  const head = h('div', { class: 'stack tight' });
  const curves = h('section', { class: 'panel stack', 'aria-label': t('training.curves') });
  const figures = h('section', { class: 'panel stack', 'aria-label': t('training.figures') });
  const notes = h('section', { class: 'stack tight', 'aria-label': t('training.notes') });
  const checkpoints = h('section', { class: 'panel stack', 'aria-label': t('training.checkpoints') });
  const pictures = film(path, signal);
  const body = h('div', { class: 'training-body', hidden: true }, curves, h('div', { class: 'stack side' }, figures, checkpoints, notes), pictures.root);
  const rest = h('div', {}, loading());
  let view = 'loss';
  let last = null;
  const nudge = new EventTarget();
  fill(root, h('div', { class: 'head' }, h('h1', {}, run), h('a', { class: 'button', href: '#training' }, t('training.all'))), head, rest, body);

  const choice = select([], '', { 'aria-label': t('training.curves'), name: 'curve', onchange: () => { view = choice.value; drawCurves(); } });
  const place = h('div');
  fill(curves, h('div', { class: 'row wrap' }, h('h2', {}, t('training.curves')), choice), place);

  function draw(detail) {
    last = detail;
    drawHead(head, detail);
    drawCurves();
    drawFigures(figures, detail);
    fill(notes, detail.notes.length > 0 && [h('h2', {}, t('training.notes')), h('ul', { class: 'notes' }, detail.notes.map((each) => h('li', {}, each)))]);
    drawCheckpoints(checkpoints, detail, () => nudge.dispatchEvent(new Event('now')));
    pictures.update(detail);
  }

  function drawCurves() {
    const known = [...Object.keys(TOGETHER), ...SINGLE].filter((name) => (TOGETHER[name] ?? [name]).some((each) => last.curves[each]));
    if (!known.includes(view)) view = known[0] ?? '';
    // The choice keeps its element, which may be open.
    if (choice.dataset.known !== known.join()) fill(choice, known.map((each) => h('option', { value: each }, t(`training.${each}`))));
    Object.assign(choice, { value: view });
    choice.dataset.known = known.join();
    const shown = (TOGETHER[view] ?? [view]).filter((each) => last.curves[each]);
    fill(place, shown.length ? chart(shown.map((each) => ({ name: each, label: t(`training.${each}`), points: last.curves[each] })), t(`training.${view}`)) : h('p', { class: 'quiet' }, t('training.no_curves')));
  }

  await new Promise((resolve) => {
    poll(async () => {
      try {
        const detail = await getJson(path, { signal });
        if (signal.aborted) return 0;
        fill(rest);
        body.hidden = false;
        draw(detail);
        resolve();
        return detail.live ? LIVE_MS : QUIET_MS;
      } catch (error) {
        if (signal.aborted) return 0;
        // What was shown stays: a service that is away for a moment takes nothing from the page.
        if (!last) { fill(rest, trainingProblem(error, () => mountTraining(root, run, section, signal))); resolve(); }
        return QUIET_MS;
      }
    }, signal, nudge);
    signal.addEventListener('abort', resolve, { once: true });
  });
}

function drawHead(head, { section, step, steps, live, updated_at: updatedAt, figures }) {
  const words = [t(`training.${section}`), steps ? t('training.step_of', { step, steps }) : t('training.at_step', { step }),
    live ? t('training.live') : ago(updatedAt), live && steps && figures.step_s && t('sets.eta', { time: duration((steps - step) * figures.step_s) })];
  fill(head, h('p', { class: `status ${live ? 'live' : ''}`, role: 'status' }, words.filter(Boolean).join(' · ')),
    steps && h('progress', { max: steps, value: step, 'aria-label': t('training.progress') }));
}

function drawFigures(node, { figures, memory_mb: memory }) {
  const rows = Object.entries(figures).map(([name, value]) => [t(`training.${name}`), valueOf(name, value)]);
  if (memory.length) rows.push([t('training.ranks'), String(memory.length)], [t('training.memory'), memory.map((each) => `${short(each)} MB`).join(' / ')]);
  fill(node, h('h2', {}, t('training.figures')), h('dl', { class: 'facts' }, rows.map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)])));
}

function valueOf(name, value) {
  if (SHARES.includes(name)) return `${short(100 * value)} %`;
  if (name === 'step_s') return value < 1 ? `${short(1000 * value)} ms` : `${short(value)} s`;
  return name === 'time_s' ? duration(value) : short(value);
}

function drawCheckpoints(node, { run, section, checkpoints }, changed) {
  const focused = document.activeElement?.dataset?.key;
  const servable = section === 'train';
  const row = (each) => h('li', {}, h('div', { class: 'grow' }, h('strong', {}, t('training.at_step', { step: each.step })),
    h('div', { class: 'tags' }, each.aliases.map((name) => h('span', { class: 'tag' }, name)),
      each.models.map((name) => h('span', { class: 'tag served' }, t('training.served_as', { name }))))),
  servable && (each.models.length ? each.models.map((name) => button(t('training.withdraw', { name }), { quiet: true, icon: 'remove', class: 'bare', 'data-key': `-${name}`, onclick: (event) => act(event, () => withdraw(name)) }))
    : button(t('training.promote'), { icon: 'up', 'data-key': each.id, 'aria-label': t('training.promote_step', { step: each.step }), onclick: (event) => act(event, () => promote(run, each)) })));
  fill(node, h('h2', {}, t('training.checkpoints')), checkpoints.length ? h('ul', { class: 'checkpoints' }, checkpoints.map(row)) : h('p', { class: 'quiet' }, t('training.no_checkpoints')));
  if (focused) [...node.querySelectorAll('button')].find((each) => each.dataset.key === focused)?.focus();

  async function act({ currentTarget }, work) {
    currentTarget.disabled = true;
    try {
      await work();
      changed();
    } catch (error) {
      noticeError(error);
      currentTarget.disabled = false;
    }
  }
}

/** Register a checkpoint as a model of the service, under the name of its run and step. */
async function promote(run, { id, step }) {
  const end = `-${step}`;
  const name = run.slice(0, MAX_NAME - end.length) + end;
  await request(`v1/registry/${encodeURIComponent(name)}`, { method: 'PUT', body: { checkpoint: id } });
  await modelsChanged(name, true);
  notice(t('training.promoted', { name }));
}

async function withdraw(name) {
  await request(`v1/registry/${encodeURIComponent(name)}`, { method: 'DELETE' });
  await modelsChanged(name, false);
  notice(t('training.withdrawn', { name }));
}
