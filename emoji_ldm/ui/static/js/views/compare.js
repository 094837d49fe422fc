// Compare: a table of pictures over two parameters, such as prompts by models, or steps by guidance.

import { ApiError, blobOf, getModels, postJson, whileBusy } from '../api.js';
import { keep } from '../database.js';
import { button, field, fill, h, select } from '../dom.js';
import { drawLoaded, explain, noticeError, state } from '../feedback.js';
import { loadDraft, parameterFields, requestParameters, saveDraft } from '../fields.js';
import { t } from '../i18n.js';
import { addressOf, imageOf, newPicture, openPicture, toPack } from '../pictures.js';
import { readParameters } from '../png.js';

const DEFAULTS = { prompt: '', seed: '1', rowAxis: 'prompt', columnAxis: 'model', values: { prompt: '', seed: '1\n2\n3', steps: '10\n20\n30', guidance_scale: '1.5\n3\n6', negative_prompt: '' } };
const AXES = ['prompt', 'model', 'seed', 'steps', 'guidance_scale', 'scheduler', 'lora', 'negative_prompt'];
const CHOICES = ['model', 'scheduler', 'lora']; // whose values the service names
const NUMBERS = ['seed', 'steps', 'guidance_scale'];
const MAX_CELLS = 100;
const IN_FLIGHT = 4; // requests at once: enough to fill batches, and not the queue of others
let last = null; // the table that was made last stays while the page is open

export const mount = (root, { signal }) => drawLoaded(root, signal, getModels, (models) => drawCompare(root, models, signal));

function drawCompare(root, models, signal) {
  const draft = loadDraft('compare', DEFAULTS);
  const save = () => { saveDraft('compare', draft); summarise(); };
  const axes = h('div', { class: 'pair' });
  const rest = h('div', { class: 'stack' });
  const summary = h('p', { class: 'summary', role: 'status' });
  const problem = h('p', { class: 'problem', role: 'alert' });
  const board = h('section', { class: 'results', 'aria-label': t('compare.table') });
  const start = button(t('compare.start'), { type: 'submit', icon: 'compare', class: 'primary big' });

  const options = { model: models.map((each) => each.id), scheduler: [...new Set(models.flatMap((each) => each.schedulers))], lora: [...new Set(models.flatMap((each) => each.loras))] };
  const valuesOf = (axis) => {
    if (CHOICES.includes(axis)) return draft.values[axis] ?? options[axis].slice(0, 3);
    return (draft.values[axis] ?? '').split('\n').map((each) => each.trim()).filter(Boolean);
  };

  function axisFields(side) {
    const axis = draft[side];
    const other = draft[side === 'rowAxis' ? 'columnAxis' : 'rowAxis'];
    const usable = AXES.filter((each) => each !== other && (!CHOICES.includes(each) || options[each].length));
    const choice = select(usable.map((each) => [each, t(`param.${each}`)]), axis, { name: side, onchange: () => { draft[side] = choice.value; save(); drawAxes(); } });
    return h('div', { class: 'stack' }, field(t(`compare.${side}`), choice), CHOICES.includes(axis) ? choices(axis) : lines(axis));
  }

  const lines = (axis) => {
    const input = h('textarea', { rows: 5, name: `values_${axis}`, value: draft.values[axis] ?? '', placeholder: t('compare.one_per_line'), oninput: () => { draft.values[axis] = input.value; save(); } });
    return field(t('compare.values', { name: t(`param.${axis}`) }), input);
  };

  const choices = (axis) => h('fieldset', { class: 'checks' }, h('legend', { class: 'label' }, t('compare.values', { name: t(`param.${axis}`) })), options[axis].map((value) => {
    const box = h('input', { type: 'checkbox', value, checked: valuesOf(axis).includes(value), onchange: () => {
      const now = new Set(valuesOf(axis));
      now[box.checked ? 'add' : 'delete'](value);
      draft.values[axis] = options[axis].filter((each) => now.has(each));
      save();
    } });
    return h('label', { class: 'check' }, box, value);
  }));

  function drawAxes() {
    const used = [draft.rowAxis, draft.columnAxis];
    fill(axes, axisFields('rowAxis'), axisFields('columnAxis'));
    const text = (name, label, tag, props) => {
      const node = h(tag, { name, value: draft[name], ...props, oninput: () => { draft[name] = node.value; save(); } });
      return field(label, node);
    };
    fill(rest, !used.includes('prompt') && text('prompt', t('param.prompt'), 'textarea', { rows: 2 }),
      !used.includes('seed') && text('seed', t('param.seed'), 'input', { type: 'number', min: 0 }),
      h('details', {}, h('summary', {}, t('create.more')), parameterFields(draft, models, save, used)));
    summarise();
  }

  function problemNow() {
    const [rows, columns] = [valuesOf(draft.rowAxis), valuesOf(draft.columnAxis)];
    if (!rows.length || !columns.length) return t('compare.no_values');
    if (rows.length * columns.length > MAX_CELLS) return t('compare.too_many', { count: MAX_CELLS });
    if (![draft.rowAxis, draft.columnAxis].includes('prompt') && !draft.prompt.trim()) return t('create.no_prompt');
    const bad = [draft.rowAxis, draft.columnAxis].find((axis) => NUMBERS.includes(axis) && valuesOf(axis).some((each) => Number.isNaN(Number(each))));
    return bad ? t('compare.no_number', { name: t(`param.${bad}`) }) : '';
  }

  function summarise() {
    problem.textContent = '';
    const found = problemNow();
    summary.textContent = found || t('compare.will_draw', { n: valuesOf(draft.rowAxis).length * valuesOf(draft.columnAxis).length });
  }

  function submit(event) {
    event.preventDefault();
    problem.textContent = problemNow();
    if (problem.textContent) return;
    last?.stop.abort();
    last = newTable(draft, valuesOf(draft.rowAxis), valuesOf(draft.columnAxis));
    drawTable(board, last, signal);
    runTable(last, () => { if (!signal.aborted) drawTable(board, last, signal); });
  }

  fill(root, h('div', { class: 'head' }, h('h1', {}, t('nav.compare')), h('p', { class: 'quiet' }, t('compare.about'))),
    h('form', { class: 'panel stack', novalidate: true, onsubmit: submit, 'aria-label': t('nav.compare') }, axes, rest, summary, problem, h('div', { class: 'submit' }, start)), board);
  drawAxes();
  if (last) {
    drawTable(board, last, signal);
    last.onChange = () => { if (!signal.aborted) drawTable(board, last, signal); };
  } else fill(board, state('empty', t('compare.empty'), t('compare.empty_hint')));
}

/** A table whose cells are requests with fixed seeds: what differs between two cells is what the axes say. */
function newTable(draft, rows, columns) {
  const { rowAxis, columnAxis } = draft;
  const asField = { steps: 'num_inference_steps' };
  const valueOf = (axis, value) => (NUMBERS.includes(axis) ? Number(value) : value);
  const cells = rows.map((row) => columns.map((column) => ({
    body: { ...requestParameters(draft), prompt: draft.prompt.trim(), seed: Number(draft.seed || 1), background: 'transparent',
      [asField[rowAxis] ?? rowAxis]: valueOf(rowAxis, row), [asField[columnAxis] ?? columnAxis]: valueOf(columnAxis, column) },
  })));
  return { rowAxis, columnAxis, rows, columns, cells, stop: new AbortController(), onChange: () => {} };
}

async function runTable(table, onChange) {
  table.onChange = onChange;
  const { signal } = table.stop;
  const waiting = table.cells.flat();
  const next = async () => {
    for (let cell = waiting.shift(); cell && !signal.aborted; cell = waiting.shift()) {
      await drawCell(cell, signal);
      table.onChange();
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, next));
}

async function drawCell(cell, signal) {
  try {
    const { data: [{ b64_json, seed }] } = await whileBusy(() => postJson('v1/images/generations', cell.body, { signal }), { signal });
    const blob = blobOf(b64_json);
    const { prompt, ...asked } = cell.body;
    const model = asked.model ?? (await getModels())[0].id;
    cell.picture = newPicture(blob, prompt, { ...asked, ...(await readParameters(blob))?.params, model, seed }, 'compare');
    await keep(cell.picture);
  } catch (error) {
    if (!signal.aborted) cell.error = error instanceof ApiError ? explain(error) : String(error);
  }
}

function drawTable(board, table, signal) {
  const done = table.cells.flat().filter((cell) => cell.picture || cell.error).length;
  const total = table.rows.length * table.columns.length;
  const busy = done < total && !table.stop.signal.aborted;
  const pictures = table.cells.flat().filter((cell) => cell.picture).map((cell) => cell.picture);
  const head = (value, scope) => h('th', { scope }, value);
  fill(board, h('div', { class: 'row wrap' }, h('p', { class: 'status', role: 'status' }, t('run.drawing', { done, n: total })),
    busy && button(t('cancel'), { icon: 'close', onclick: () => { table.stop.abort(); drawTable(board, table, signal); } }),
    pictures.length > 0 && button(t('action.all_to_pack'), { icon: 'pack', onclick: () => toPack(pictures).catch(noticeError) })),
  busy && h('progress', { max: total, value: done, 'aria-label': t('run.progress') }),
  h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': t('compare.table') }, h('table', { class: 'compare' },
    h('caption', { class: 'visually-hidden' }, t('compare.caption', { row: t(`param.${table.rowAxis}`), column: t(`param.${table.columnAxis}`) })),
    h('thead', {}, h('tr', {}, h('td', { class: 'axes' }, `${t(`param.${table.rowAxis}`)} ↓ · ${t(`param.${table.columnAxis}`)} →`), table.columns.map((each) => head(each, 'col')))),
    h('tbody', {}, table.rows.map((row, at) => h('tr', {}, head(row, 'row'), table.cells[at].map((cell) => h('td', {}, cellOf(cell, busy, signal)))))))));
}

function cellOf(cell, busy, signal) {
  if (cell.error) return h('p', { class: 'problem' }, cell.error);
  if (!cell.picture) return h('div', { class: 'picture ground checker' }, busy && h('span', { class: 'spinner', 'aria-hidden': 'true' }));
  if (!cell.url) {
    cell.url = addressOf(cell.picture.blob, signal);
    signal.addEventListener('abort', () => { cell.url = null; }, { once: true });
  }
  return h('button', { type: 'button', class: 'picture ground checker', 'aria-label': t('picture.open', { name: cell.picture.prompt }), onclick: () => openPicture(cell.picture) }, imageOf(cell.url, 96));
}
