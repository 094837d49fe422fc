// The form of Create: prompt with the seven attributes as chips, parameters, seed, ground, and a start image.

import { button, field, fill, h, select } from '../dom.js';
import { loadDraft, MAX_PROMPT, modelOf, numberField, parameterFields, saveDraft } from '../fields.js';
import { notice } from '../feedback.js';
import { drawMask } from '../mask_editor.js';
import { t } from '../i18n.js';
import { readParameters } from '../png.js';
import { fileDrop, imageProblem } from '../uploads.js';
import { newPicture, recall } from '../pictures.js';
import { ATTRIBUTES, writePrompt } from '../prompt.js';

const DEFAULTS = { subject: '', attributes: {}, n: 4, seedMode: 'random', seed: '', ground: 'transparent', colour: '#ffd166', strength: 0.8 };
const MAX_SEED = 2 ** 53 - 1; // up to which JavaScript holds integers exactly
// Files are not part of the draft: they stay in memory while the page is open.
const files = { image: null, mask: null };

/** The form; `draw(draft, files)` is called for each valid request. */
export function createForm(models, draw, signal) {
  const draft = loadDraft('create', DEFAULTS);
  const save = () => saveDraft('create', draft);
  const changed = () => { save(); showSentence(); };
  const sentence = h('p', { class: 'sentence', 'aria-live': 'polite' });
  const problem = h('p', { class: 'problem', role: 'alert' });
  const subject = h('textarea', { rows: 2, maxlength: MAX_PROMPT, name: 'prompt', required: true, value: draft.subject,
    placeholder: t('create.placeholder'), 'aria-describedby': 'sentence',
    oninput: () => { draft.subject = subject.value; changed(); } });
  sentence.id = 'sentence';

  function showSentence() {
    const text = writePrompt(draft.subject, draft.attributes);
    sentence.textContent = text && text !== draft.subject.trim() ? text : '';
    problem.textContent = '';
  }

  function submit(event) {
    event?.preventDefault();
    problem.textContent = problemOf(draft, models);
    if (problem.textContent) {
      (draft.subject.trim() ? form.elements.seed ?? subject : subject).focus();
      return;
    }
    saveDraft('create', draft);
    draw(draft, files);
    if (draft.seedMode === 'next') {
      draft.seed = Number(draft.seed || 0) + Number(draft.n);
      form.elements.seed.value = draft.seed;
      save();
    }
  }

  const form = h('form', { class: 'panel stack', novalidate: true, onsubmit: submit, 'aria-label': t('create.form') },
    field(t('param.prompt'), subject), chips(draft, changed), sentence,
    h('div', { class: 'pair' }, numberField(draft, 'n', { min: 1, max: modelOf(draft, models).max_images, save }), groundField(draft, save)),
    seedFields(draft, save), startImage(draft, save),
    h('details', {}, h('summary', {}, t('create.more')), parameterFields(draft, models, save)),
    problem,
    h('div', { class: 'submit' }, button(t('create.draw'), { type: 'submit', icon: 'create', class: 'primary big' }),
      h('kbd', {}, 'Ctrl ↵')));
  form.addEventListener('keydown', (event) => { if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) submit(event); });
  // A picture of ours that is dropped anywhere on the form brings its parameters along.
  fileDrop(form, signal, ([file]) => recallFile(file));
  showSentence();
  return form;
}

function problemOf(draft, models) {
  const model = modelOf(draft, models);
  if (!draft.subject.trim()) return t('create.no_prompt');
  if (!(Number(draft.n) >= 1 && Number(draft.n) <= model.max_images)) return t('create.bad_count', { count: model.max_images });
  const seed = Number(draft.seed);
  if (draft.seedMode !== 'random' && !(Number.isInteger(seed) && seed >= 0 && seed <= MAX_SEED)) return t('create.bad_seed');
  return '';
}

/** Seven chips; the one that is open shows values to choose from and a field for any other. */
function chips(draft, changed) {
  const row = h('div', { class: 'chips' });
  const editor = h('div', { class: 'chip-editor', id: 'chip-editor' });
  let opened = '';
  const set = (name, value) => { draft.attributes[name] = value; changed(); drawRow(); };
  function drawRow() {
    const focused = document.activeElement?.dataset?.chip;
    fill(row, Object.keys(ATTRIBUTES).map((name) => h('button', { type: 'button', 'data-chip': name, 'aria-controls': 'chip-editor',
      class: draft.attributes[name] ? 'chip on' : 'chip', 'aria-expanded': String(opened === name), onclick: () => toggle(name) },
      draft.attributes[name] ? `${t(`attribute.${name}`)}: ${draft.attributes[name]}` : t(`attribute.${name}`))));
    if (focused) row.querySelector(`[data-chip="${focused}"]`)?.focus();
  }
  function toggle(name) {
    opened = opened === name ? '' : name;
    drawRow();
    drawEditor();
  }
  function drawEditor() {
    if (!opened) { fill(editor); return; }
    const name = opened;
    const own = h('input', { value: draft.attributes[name] ?? '', maxlength: 80, 'aria-label': t(`attribute.${name}`), placeholder: t('create.own_value'),
      oninput: () => { set(name, own.value); mark(); } });
    const values = ATTRIBUTES[name].map((value) => h('button', { type: 'button', class: 'value', onclick: () => {
      set(name, draft.attributes[name] === value ? '' : value);
      own.value = draft.attributes[name];
      mark();
    } }, value));
    const mark = () => values.forEach((each) => each.setAttribute('aria-pressed', String(each.textContent === draft.attributes[name])));
    mark();
    fill(editor, h('div', { class: 'values', role: 'group', 'aria-label': t(`attribute.${name}`) }, values), own);
  }
  drawRow();
  return h('div', { class: 'stack tight', role: 'group', 'aria-label': t('create.attributes') }, row, editor);
}

function groundField(draft, save) {
  const colour = h('input', { type: 'color', value: draft.colour, 'aria-label': t('ground.colour'), oninput: () => { draft.colour = colour.value; save(); } });
  const choice = select(['transparent', 'drawn', 'white', 'colour'].map((each) => [each, t(`ground.${each}`)]), draft.ground, {
    name: 'ground', onchange: () => { draft.ground = choice.value; colour.hidden = choice.value !== 'colour'; save(); } });
  colour.hidden = draft.ground !== 'colour';
  return h('div', { class: 'with-extra' }, field(t('param.ground'), choice), colour);
}

function seedFields(draft, save) {
  const number = h('input', { type: 'number', name: 'seed', min: 0, max: MAX_SEED, step: 1, value: draft.seed, 'aria-label': t('param.seed'),
    inputmode: 'numeric', disabled: draft.seedMode === 'random', oninput: () => { draft.seed = number.value; save(); } });
  const mode = select(['random', 'fixed', 'next'].map((each) => [each, t(`seed.${each}`)]), draft.seedMode, { name: 'seed_mode', onchange: () => {
    draft.seedMode = mode.value;
    number.disabled = mode.value === 'random';
    if (!number.disabled && draft.seed === '') number.value = draft.seed = 1;
    save();
  } });
  return h('div', { class: 'pair' }, field(t('param.seed'), mode), field(t('seed.number'), number));
}

/** A start image with its strength, and a mask; files that are no images are refused before anything is sent. */
function startImage(draft, save) {
  const box = h('div', { class: 'stack' });
  const choose = (name) => async (event) => {
    const [file] = event.target.files;
    const problem = file && await imageProblem(file);
    if (problem) notice(problem, { kind: 'bad' });
    // In memory: a file that changes on the disk could not be sent any more.
    files[name] = file && !problem ? new File([await file.arrayBuffer()], file.name, { type: file.type }) : null;
    show();
  };
  const one = (name) => h('div', { class: 'file-row' },
    field(t(`create.${name}`), h('input', { type: 'file', accept: 'image/png,image/jpeg,image/webp,image/gif', name, onchange: choose(name) }),
      files[name] ? t('create.chosen', { name: files[name].name }) : t(`create.${name}_hint`)),
    files[name] && button(t('create.without', { name: t(`create.${name}`) }), { icon: 'close', quiet: true, onclick: () => { files[name] = null; if (name === 'image') files.mask = null; show(); } }));
  function show() {
    const strength = h('input', { type: 'range', min: 0.05, max: 1, step: 0.05, value: draft.strength, name: 'strength', oninput: () => { draft.strength = Number(strength.value); amount.textContent = strength.value; save(); } });
    const amount = h('output', {}, String(draft.strength));
    fill(box, one('image'), files.image && [one('mask'), button(t('mask.draw'), { icon: 'brush', onclick: () => drawMask(files.image, (mask) => { files.mask = mask; show(); }) }), !files.mask && field(t('param.strength'), h('span', { class: 'range' }, strength, amount), t('create.strength_hint'))]);
  }
  show();
  return h('details', { open: Boolean(files.image) }, h('summary', {}, t('create.start')), box);
}

async function recallFile(file) {
  const problem = await imageProblem(file);
  if (problem) { notice(problem, { kind: 'bad' }); return; }
  const stated = await readParameters(file);
  if (!stated) { notice(t('recall.none', { name: file.name }), { kind: 'bad' }); return; }
  await recall(newPicture(file, stated.prompt, stated.params, 'import'));
}
