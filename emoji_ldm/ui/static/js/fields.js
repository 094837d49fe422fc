// The parameters of a request as form fields, shared by Create, Sets and Compare; what was entered survives a reload.

import { field, h, select } from './dom.js';
import { t } from './i18n.js';

const PARAMETERS = { negative_prompt: '', model: '', lora: '', steps: '', guidance_scale: '', scheduler: '' };
export const MAX_PROMPT = 4000; // characters, as the service has it

/** What was entered in a view, with defaults for what was not. */
export function loadDraft(view, defaults) {
  const stored = JSON.parse(sessionStorage.getItem(`studio.draft.${view}`) ?? '{}');
  return { ...structuredClone({ ...PARAMETERS, ...defaults }), ...stored };
}

/** Keep what was entered; texts that are too long for the browser's storage stay in the page alone. */
export function saveDraft(view, draft) {
  const before = JSON.parse(sessionStorage.getItem(`studio.draft.${view}`) ?? '{}');
  try {
    sessionStorage.setItem(`studio.draft.${view}`, JSON.stringify({ ...before, ...draft }));
  } catch (error) {
    if (error.name !== 'QuotaExceededError') throw error;
  }
}

/** The model of a draft, or the default one. */
export const modelOf = (draft, models) => models.find((each) => each.id === draft.model) ?? models[0];

/** A number field that may be empty: the service then decides. */
export function numberField(draft, name, { min, max, step = 1, hint, save }) {
  const input = h('input', { type: 'number', min, max, step, value: draft[name], placeholder: t('param.auto'), inputmode: 'decimal', name,
    oninput: () => { draft[name] = input.value; save(); } });
  return field(t(`param.${name}`), input, hint);
}

/**
 * The fields of `PARAMETERS`, drawn again when the model changes, since adapters and schedulers depend on it.
 * `omit` names fields that the view has in another form.
 */
export function parameterFields(draft, models, save, omit = []) {
  const box = h('div', { class: 'stack' });
  const choose = (name, options) => {
    const node = select(options, draft[name], { name, onchange: () => { draft[name] = node.value; save(); if (name === 'model') draw(); } });
    return field(t(`param.${name}`), node);
  };
  const draw = () => {
    const model = modelOf(draft, models);
    const automatic = ['', t('param.auto')];
    // What another model offered may not exist here.
    if (!model.loras.includes(draft.lora)) draft.lora = '';
    if (!model.schedulers.includes(draft.scheduler)) draft.scheduler = '';
    const negative = h('textarea', { rows: 2, maxlength: MAX_PROMPT, name: 'negative_prompt', value: draft.negative_prompt,
      oninput: () => { draft.negative_prompt = negative.value; save(); } });
    const parts = {
      negative_prompt: () => field(t('param.negative_prompt'), negative),
      model: () => choose('model', models.map((each, index) => [index ? each.id : '', each.id])),
      lora: () => model.loras.length > 0 && choose('lora', [['', t('param.none')], ...model.loras]),
      steps: () => numberField(draft, 'steps', { min: 1, max: model.max_steps, hint: t('param.at_most', { count: model.max_steps }), save }),
      guidance_scale: () => numberField(draft, 'guidance_scale', { min: 1, max: 50, step: 0.1, save }),
      scheduler: () => choose('scheduler', [automatic, ...model.schedulers]),
    };
    const wanted = Object.keys(parts).filter((name) => !omit.includes(name));
    const small = wanted.filter((name) => name !== 'negative_prompt').map((name) => parts[name]());
    box.replaceChildren(...(wanted.includes('negative_prompt') ? [parts.negative_prompt()] : []),
      h('div', { class: 'pair' }, small));
  };
  draw();
  return box;
}

/** The parameters of a draft as the API takes them: what was left empty is left out. */
export function requestParameters(draft) {
  const values = {};
  for (const name of ['negative_prompt', 'model', 'lora', 'scheduler']) if (draft[name]) values[name] = draft[name];
  for (const name of ['steps', 'guidance_scale']) {
    if (draft[name] !== '' && draft[name] !== null) values[name === 'steps' ? 'num_inference_steps' : name] = Number(draft[name]);
  }
  return values;
}
