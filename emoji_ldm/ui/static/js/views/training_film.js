// The sample grids of a training as a film: a strip of all, the chosen one large, and a button that plays them.

import { button, fill, h, select, sleep } from '../dom.js';
import { noticeError } from '../feedback.js';
import { t } from '../i18n.js';
import { fetchPicture, remotePicture } from '../remote_pictures.js';

const FRAME_MS = 700;
const LARGE_PX = 1024;

/** The film of a training at `path`; `update(detail)` takes the steps that have pictures by now. */
export function film(path, signal) {
  const root = h('section', { class: 'stack film', 'aria-label': t('training.film') });
  const stage = h('img', { class: 'stage', alt: '', hidden: true });
  const caption = h('p', { class: 'status', role: 'status' });
  const strip = h('ul', { class: 'strip', 'aria-label': t('training.film') });
  const range = h('input', { type: 'range', min: 0, max: 0, step: 1, 'aria-label': t('training.frame'), oninput: () => show(Number(range.value)) });
  const play = button(t('training.play'), { icon: 'play', onclick: start });
  const kinds = select(['samples', 'pairs'].map((each) => [each, t(`training.${each}`)]), 'samples', { 'aria-label': t('training.pictures'), onchange: () => { kind = kinds.value; drawn = ''; update(known); } });
  let kind = 'samples';
  let known = { samples: [], pairs: [] };
  let steps = [];
  let shown = -1;
  let drawn = '';
  let playing = null;
  let own = new AbortController(); // of the pictures of this strip

  const gridPath = (step, size) => `${path}/${kind}/${step}?size=${size}`;

  async function show(index) {
    if (!steps.length) return;
    shown = Math.min(Math.max(index, 0), steps.length - 1);
    const step = steps[shown];
    range.value = shown;
    for (const each of strip.querySelectorAll('button')) each.setAttribute('aria-pressed', String(Number(each.dataset.step) === step));
    caption.textContent = t('training.frame_of', { step, number: shown + 1, count: steps.length });
    try {
      const url = await fetchPicture(gridPath(step, LARGE_PX), own.signal);
      if (steps[shown] === step) Object.assign(stage, { src: url, alt: t('training.at_step', { step }), hidden: false });
    } catch (error) {
      if (!own.signal.aborted) caption.textContent = t('training.no_picture', { step });
    }
  }

  async function start() {
    if (playing) { playing.abort(); return; }
    playing = new AbortController();
    const { signal: stop } = playing;
    signal.addEventListener('abort', () => playing?.abort(), { once: true });
    play.lastChild.textContent = t('training.stop');
    try {
      if (shown === steps.length - 1) shown = -1;
      while (shown < steps.length - 1) {
        await show(shown + 1);
        await sleep(FRAME_MS, stop);
      }
    } catch (error) {
      if (!stop.aborted) noticeError(error);
    }
    playing = null;
    play.lastChild.textContent = t('training.play');
  }

  function update(detail) {
    known = detail;
    const has = ['samples', 'pairs'].filter((each) => detail[each].length);
    if (!has.includes(kind) && has.length) kind = kinds.value = has[0];
    steps = detail[kind];
    kinds.hidden = has.length < 2;
    root.hidden = !has.length;
    const key = `${kind}:${steps.join()}`;
    if (key === drawn) return;
    // Who looks at the newest picture sees the next one; who has gone back stays there.
    const follows = shown < 0 || shown >= strip.children.length - 1 || !drawn.startsWith(`${kind}:`);
    const at = steps.indexOf(Number(strip.querySelector('[aria-pressed=true]')?.dataset.step));
    drawn = key;
    own.abort();
    own = new AbortController();
    signal.addEventListener('abort', () => own.abort(), { once: true });
    fill(strip, steps.map((step, index) => h('li', {}, h('button', { type: 'button', 'data-step': step, 'aria-pressed': 'false', 'aria-label': t('training.at_step', { step }), onclick: () => show(index) },
      remotePicture(gridPath(step, 160), 96, '', own.signal), h('span', {}, step.toLocaleString(document.documentElement.lang))))));
    Object.assign(range, { max: Math.max(0, steps.length - 1) });
    range.parentElement.hidden = steps.length < 2;
    show(follows || at < 0 ? steps.length - 1 : at);
    if (follows) strip.scrollLeft = strip.scrollWidth;
  }

  // The large picture is last: it moves nothing when it comes.
  fill(root, h('div', { class: 'row wrap' }, h('h2', {}, t('training.film')), kinds), strip,
    h('div', { class: 'row' }, play, range), caption, stage);
  root.hidden = true;
  return { root, update };
}
