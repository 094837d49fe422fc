// A new set: prompts from lines, a file, or a matrix, and the parameters that hold for all of them.

import { getJson, getModels } from '../api.js';
import { button, debounce, field, fill, h } from '../dom.js';
import { drawLoaded, explain } from '../feedback.js';
import { loadDraft, numberField, parameterFields, requestParameters, saveDraft } from '../fields.js';
import { t } from '../i18n.js';
import { writePrompt } from '../prompt.js';
import { matrix, readLines, readPrompts, toJsonLines } from '../tables.js';
import { fileDrop } from '../uploads.js';

const DEFAULTS = { name: '', way: 'lines', lines: '', subjects: '', expressions: '', colours: '', style: '', n: 1, seed: '' };
const WAYS = ['lines', 'file', 'matrix'];
const MAX_TABLE_BYTES = 100 * 2 ** 20;
const SHOWN_PROBLEMS = 5;
const SHOWN_EXAMPLES = 6;
let table = null; // the file that was read: {name, rows, problems}

export const mountForm = (root, signal) => drawLoaded(root, signal, getModels, (models) => drawForm(root, models, signal));

function drawForm(root, models, signal) {
  const draft = loadDraft('set', DEFAULTS);
  const store = () => saveDraft('set', draft);
  addEventListener('pagehide', store, { signal });
  const source = h('div', { class: 'stack' });
  const summary = h('div', { class: 'summary', role: 'status' });
  const problem = h('p', { class: 'problem', role: 'alert' });
  const save = () => { store(); summarise(); };
  const text = (name, rows, label, hint) => {
    const input = h('textarea', { rows, name, value: draft[name], placeholder: hint, oninput: () => { draft[name] = input.value; later(); } });
    return field(label, input);
  };
  const later = debounce(save, 150);
  const start = button(t('sets.start'), { type: 'submit', icon: 'sets', class: 'primary big' });

  function result() {
    if (draft.way === 'file') return table ?? { rows: [], problems: [] };
    if (draft.way === 'lines') return readLines(draft.lines);
    return { rows: matrix(draft.subjects, draft.expressions, draft.colours, writePrompt), problems: [] };
  }

  function summarise() {
    const { rows, problems } = result();
    const images = rows.reduce((sum, row) => sum + (Number(row.n) || Number(draft.n) || 1), 0);
    problem.textContent = '';
    fill(summary, h('p', {}, rows.length ? t('sets.will_draw', { n: images, prompts: rows.length }) : t('sets.no_prompts')),
      rows.length > 0 && h('ul', { class: 'examples' }, rows.slice(0, SHOWN_EXAMPLES).map((row) => h('li', {}, row.prompt))),
      problems.length > 0 && h('div', { class: 'problem' }, h('p', {}, t('sets.skipped', { n: problems.length })),
        h('ul', {}, problems.slice(0, SHOWN_PROBLEMS).map(({ line, reason }) => h('li', {}, t('sets.line', { line, reason: t(`line.${reason}`) }))),
          problems.length > SHOWN_PROBLEMS && h('li', {}, t('sets.and_more', { count: problems.length - SHOWN_PROBLEMS })))));
    start.disabled = !rows.length;
  }

  async function readFile(file) {
    problem.textContent = '';
    if (file.size > MAX_TABLE_BYTES) { problem.textContent = t('file.too_large', { name: file.name, size: Math.round(file.size / 2 ** 20), most: MAX_TABLE_BYTES / 2 ** 20 }); return; }
    const head = new Uint8Array(await file.slice(0, 4096).arrayBuffer());
    // Texts hold no zero bytes; images, spreadsheets and PDF files do, or say what they are.
    if (head.includes(0) || String.fromCharCode(...head.slice(0, 4)) === '%PDF') { table = null; drawSource(); problem.textContent = t('file.no_text', { name: file.name }); return; }
    table = { name: file.name, ...readPrompts(await file.text(), file.name) };
    draft.way = 'file';
    drawSource();
  }

  function drawSource() {
    const tabs = h('div', { class: 'segments', role: 'radiogroup', 'aria-label': t('sets.source') }, WAYS.map((way) => h('label', {},
      h('input', { type: 'radio', name: 'way', value: way, checked: draft.way === way, onchange: () => { draft.way = way; save(); drawSource(); source.querySelector('input:checked').focus(); } }),
      h('span', {}, t(`sets.way_${way}`)))));
    const file = h('input', { type: 'file', name: 'table', accept: '.csv,.tsv,.jsonl,.ndjson,.txt,text/csv,text/plain', onchange: () => file.files[0] && readFile(file.files[0]) });
    const parts = {
      lines: () => text('lines', 10, t('sets.lines'), t('sets.lines_hint')),
      file: () => field(t('sets.file'), file, table ? t('create.chosen', { name: table.name }) : t('sets.file_hint')),
      matrix: () => h('div', { class: 'triple' }, ['subjects', 'expressions', 'colours'].map((name) => text(name, 6, t(`sets.${name}`), t(`sets.${name}_hint`)))),
    };
    fill(source, tabs, parts[draft.way]());
    summarise();
  }

  async function submit(event) {
    event.preventDefault();
    if (start.disabled) return;
    start.disabled = true;
    try {
      const set = await create(draft, result().rows);
      table = null;
      saveDraft('set', { name: '', lines: '', subjects: '', expressions: '', colours: '' });
      location.hash = `#sets/${set.id}`;
    } catch (error) {
      problem.textContent = explain(error);
      start.disabled = false;
    }
  }

  const input = (name, label, hint) => {
    const node = h('input', { name, value: draft[name], maxlength: 200, placeholder: hint, oninput: () => { draft[name] = node.value; store(); } });
    return field(label, node);
  };
  const form = h('form', { class: 'panel stack', novalidate: true, onsubmit: submit, 'aria-label': t('sets.new') }, h('div', { class: 'stack' },
    input('name', t('sets.name'), t('sets.name_hint')), source,
    input('style', t('sets.style'), '{prompt}, flat style'),
    h('div', { class: 'pair' }, numberField(draft, 'n', { min: 1, max: 1000, save, hint: t('sets.n_hint') }), numberField(draft, 'seed', { min: 0, save })),
    h('details', {}, h('summary', {}, t('create.more')), parameterFields(draft, models, store))),
    h('div', { class: 'stack aside' }, h('h2', {}, t('sets.preview')), summary, problem, h('div', { class: 'submit' }, start)));
  fill(root, h('div', { class: 'head' }, h('h1', {}, t('sets.new')), h('a', { class: 'button', href: '#sets' }, t('sets.all'))), form);
  fileDrop(form, signal, ([file]) => readFile(file));
  drawSource();
}

async function create(draft, rows) {
  const seed = draft.seed === '' ? {} : { seed: Number(draft.seed) };
  const styles = draft.style.trim() ? { styles: [draft.style.trim().includes('{prompt}') ? draft.style.trim() : `{prompt}, ${draft.style.trim()}`] } : {};
  // A set is found again by its name: one that was not named is called by its first prompt.
  const name = draft.name.trim() || `${rows[0].prompt.slice(0, 60)}${rows.length > 1 ? ` +${rows.length - 1}` : ''}`;
  const parameters = { name, n: Number(draft.n) || 1, background: 'transparent', ...seed, ...styles, ...requestParameters(draft) };
  const form = new FormData();
  form.append('file', new Blob([toJsonLines(rows)], { type: 'application/jsonl' }), 'prompts.jsonl');
  form.append('parameters', JSON.stringify(parameters));
  return getJson('v1/emoji-sets', { method: 'POST', form, headers: { 'Idempotency-Key': crypto.randomUUID() } });
}
