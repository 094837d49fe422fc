// Pictures as people see them: small on every ground, and large with everything that is known about them.

import { blobOf, getJson, getModels } from './api.js';
import { addToPack, update } from './database.js';
import { button, field, fill, h, saveFile } from './dom.js';
import { dialog, drawLoaded, notice, noticeError } from './feedback.js';
import { moment, t } from './i18n.js';
import { nameOf } from './prompt.js';
import { saveDraft } from './fields.js';

export const GROUNDS = ['light', 'dark', 'checker'];
// Emoji are used small: the sizes of a favicon, of text, of a reaction, and of the file.
export const SIZES_PX = [16, 32, 64, 128];

/** A picture of the gallery from a file and what is known about it. */
export function newPicture(blob, prompt, params, source, more = {}) {
  return { id: crypto.randomUUID(), blob, prompt, params, source, name: nameOf(prompt), tags: [], created: Date.now(), ...more };
}

/** The address of a Blob until the signal is aborted. */
export function addressOf(blob, signal) {
  const url = URL.createObjectURL(blob);
  signal.addEventListener('abort', () => URL.revokeObjectURL(url), { once: true });
  return url;
}

/** An img of a Blob; `side` is its side in CSS pixels. */
export function imageOf(url, side, alt = '') {
  return h('img', { src: url, width: side, height: side, alt, loading: 'lazy', decoding: 'async', draggable: 'false' });
}

/** The picture on the three grounds at two small sizes: whether it works as an emoji is seen at a glance. */
export function smallLooks(url) {
  return h('div', { class: 'small-looks', 'aria-hidden': 'true' },
    GROUNDS.map((ground) => h('span', { class: `ground ${ground}` }, [32, 16].map((side) => imageOf(url, side)))));
}

/** Every ground at every size, as a table. */
export function looksTable(url) {
  return h('table', { class: 'looks' },
    h('caption', { class: 'visually-hidden' }, t('looks.caption')),
    h('thead', {}, h('tr', {}, h('td', {}), SIZES_PX.map((side) => h('th', { scope: 'col' }, `${side} px`)))),
    h('tbody', {}, GROUNDS.map((ground) => h('tr', {}, h('th', { scope: 'row' }, t(`ground.${ground}`)),
      SIZES_PX.map((side) => h('td', { class: `ground ${ground}` },
        imageOf(url, side, t('looks.cell', { ground: t(`ground.${ground}`), side }))))))));
}

const SHOWN = ['negative_prompt', 'model', 'lora', 'seed', 'steps', 'guidance_scale', 'scheduler', 'strength', 'ground', 'made_with'];

/** Every parameter of a picture, as a list of terms. */
export function parameterList(picture) {
  const { params } = picture;
  const rows = SHOWN.filter((name) => params[name] !== undefined && params[name] !== '' && params[name] !== null)
    .map((name) => [t(`param.${name}`), String(params[name])]);
  const facts = [[t('param.prompt'), picture.prompt], ...rows, [t('param.created'), moment(picture.created)]];
  return h('dl', { class: 'facts' }, facts.map(([term, text]) => [h('dt', {}, term), h('dd', {}, text)]));
}

/** Open a picture: looks, parameters, and what can be done with it. `actions` are further buttons. */
export function openPicture(picture, { actions = [], editable = true } = {}) {
  const life = new AbortController();
  const url = addressOf(picture.blob, life.signal);
  const close = () => node.close();
  const row = [
    button(t('action.download'), { icon: 'download', onclick: () => download(picture) }),
    button(t('action.recall'), { icon: 'recall', onclick: async () => { await recall(picture); close(); } }),
    editable && button(t('action.to_pack'), { icon: 'pack', onclick: () => toPack([picture]) }),
    ...actions.map((action) => button(action.label, { icon: action.icon, onclick: () => { close(); action.work(); } })),
  ];
  const node = dialog(picture.name, [
    h('div', { class: 'columns' }, h('div', { class: 'stack' }, looksTable(url), h('div', { class: 'row wrap' }, row)),
      h('div', { class: 'stack' }, editable && nameForm(picture), parameterList(picture), nearest(picture, life.signal))),
  ], { wide: true, onclose: () => life.abort() });
}

/** The training images nearest to a picture, asked for when a person wants to know; the service compares, and keeps nothing. */
function nearest(picture, signal) {
  const list = h('div', { 'aria-live': 'polite' });
  const ask = async () => {
    const form = new FormData();
    form.append('image', picture.blob, 'picture.png');
    const known = (await getModels()).some((each) => each.id === picture.params.model);
    if (known) form.append('model', picture.params.model);
    return getJson('v1/images/nearest', { method: 'POST', form, signal });
  };
  const draw = ({ data }) => fill(list, h('ul', { class: 'grid small' }, data.map((each) => h('li', { class: 'stack' },
    imageOf(addressOf(blobOf(each.b64_json), signal), 64, each.title),
    h('small', {}, t('nearest.similar', { percent: Math.round(100 * each.similarity) })),
    h('small', { class: 'quiet' }, each.license ?? t('nearest.no_license'))))));
  const start = button(t('nearest.ask'), { icon: 'gallery', onclick: () => { start.remove(); drawLoaded(list, signal, ask, draw); } });
  return h('section', { class: 'stack', 'aria-label': t('nearest.title') }, h('h3', {}, t('nearest.title')), start, list);
}

function nameForm(picture) {
  const name = h('input', { value: picture.name, maxlength: 64, onchange: save });
  const tags = h('input', { value: picture.tags.join(', '), maxlength: 200, onchange: save });
  async function save() {
    const words = tags.value.split(',').map((each) => each.trim()).filter(Boolean);
    Object.assign(picture, { name: name.value.trim() || picture.name, tags: [...new Set(words)] });
    await update('pictures', picture.id, picture, { name: picture.name, tags: picture.tags }).catch(noticeError);
    document.getElementById('dialog-title').textContent = picture.name;
  }
  return h('div', { class: 'pair' }, field(t('param.name'), name), field(t('param.tags'), tags, t('param.tags_hint')));
}

export function download(picture) {
  const kind = picture.blob.type.split('/')[1] || 'png';
  saveFile(picture.blob, `${picture.name.replace(/[^\w-]+/g, '_')}.${kind}`);
}

/** Add pictures to the pack, and to the gallery if they are not in it. */
export async function toPack(pictures) {
  await addToPack(...pictures.map(({ id, name }) => ({ id, name: nameOf(name) })));
  notice(t('pack.added', { n: pictures.length }));
}

/** Take up the parameters of a picture in Create. */
export async function recall(picture) {
  const { params } = picture;
  const models = await getModels().catch(() => []);
  const model = models.find((each) => each.id === params.model) ?? models.find((each) => each.key === params.model_key);
  const known = (name, values) => (values?.includes(params[name]) ? params[name] : '');
  saveDraft('create', {
    subject: picture.subject ?? picture.prompt, attributes: picture.attributes ?? {},
    negative_prompt: params.negative_prompt ?? '', model: model?.id ?? '', lora: known('lora', model?.loras),
    scheduler: known('scheduler', model?.schedulers), steps: params.steps ?? '', guidance_scale: params.guidance_scale ?? '',
    seedMode: 'fixed', seed: params.seed ?? '', ...groundOf(params.ground),
  });
  notice(model ? t('recall.done') : t('recall.no_model'));
  if (location.hash === '#create' || !location.hash) dispatchEvent(new HashChangeEvent('hashchange'));
  else location.hash = '#create';
}

/** The ground that a draft chooses; a colour is written as #rrggbb. */
function groundOf(ground) {
  if (!ground) return {};
  return ground.startsWith('#') ? { ground: 'colour', colour: ground } : { ground };
}
