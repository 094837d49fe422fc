// A curve over steps as SVG. Shapes are attributes and colours are classes, so that the page's policy allows them.

import { h } from '../dom.js';
import { t } from '../i18n.js';

const SVG = 'http://www.w3.org/2000/svg';
const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [260, 56, 12, 10, 28];
const [WIDE, NARROW] = [720, 380]; // units of the drawing; on a phone they are about pixels, or its texts would be tiny
const NUM_TICKS = 4;

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Curves [{name, label, points: [[step, value]]}] in one chart, and what they say as a text. */
export function chart(curves, title) {
  const width = matchMedia('(max-width: 900px)').matches ? NARROW : WIDE;
  const all = curves.flatMap((each) => each.points);
  const [firstStep, lastStep] = rangeOf(all.map(([step]) => step));
  const [low, high] = rangeOf(all.map(([, value]) => value));
  const x = (step) => LEFT + (width - LEFT - RIGHT) * (step - firstStep) / (lastStep - firstStep || 1);
  const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low || 1);
  const lines = ticks(low, high).flatMap((value) => [
    svg('line', { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), class: 'grid-line' }),
    svg('text', { x: LEFT - 6, y: y(value) + 4, 'text-anchor': 'end' }, short(value))]);
  const steps = ticks(firstStep, lastStep).map((step) => svg('text', { x: x(step), y: HEIGHT - 8, 'text-anchor': 'middle' }, short(step)));
  const paths = curves.map((each) => svg('path', { class: `curve ${each.name}`, d: each.points.map(([step, value], index) => `${index ? 'L' : 'M'}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join('') }));
  // A single point has no line.
  const dots = curves.flatMap((each) => (each.points.length === 1 ? [svg('circle', { class: `dot ${each.name}`, cx: x(each.points[0][0]), cy: y(each.points[0][1]), r: 3 })] : []));
  const text = curves.map(({ label, points }) => t('training.curve', { name: label, first: short(points[0][1]), last: short(points.at(-1)[1]), steps: points.at(-1)[0] })).join(' ');
  const image = svg('svg', { viewBox: `0 0 ${width} ${HEIGHT}`, role: 'img', 'aria-label': `${title}. ${text}`, class: 'chart' }, ...lines, ...steps, ...paths, ...dots);
  return h('figure', { class: 'stack tight' }, image, h('figcaption', { class: 'legend' }, curves.map((each) => h('span', { class: `key ${each.name}` }, each.label))));
}

const rangeOf = (values) => values.reduce(([low, high], each) => [Math.min(low, each), Math.max(high, each)], [Infinity, -Infinity]);

/** Round numbers inside a range, about `NUM_TICKS`. */
function ticks(low, high) {
  if (high === low) return [low];
  const rough = (high - low) / NUM_TICKS;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(value);
  return found;
}

/** A number in at most about six characters. */
export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Math.round(value / 1e5) / 10}M`;
  if (size >= 1e4) return `${Math.round(value / 100) / 10}k`;
  if (size >= 100 || value === 0) return String(Math.round(value));
  return size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}
