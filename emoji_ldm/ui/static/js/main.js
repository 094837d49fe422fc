// The frame of the page: navigation, language, theme, key, and which view is shown.

import { apiEvents, getJson, getKey, setKey } from './api.js';
import { button, field, fill, h, icon, select, sleep } from './dom.js';
import { dialog, explain, failed } from './feedback.js';
import { LANGUAGES, language, loadLanguage, preferredLanguage, t } from './i18n.js';

const VIEWS = ['create', 'sets', 'gallery', 'compare', 'pack', 'data', 'training'];
const nav = document.getElementById('nav');
const tools = document.getElementById('tools');
const banner = document.getElementById('banner');
const main = document.getElementById('main');
let shown = new AbortController();
let keyDialog = null;

function drawNavigation(current) {
  fill(nav, VIEWS.map((name) => h('a', { href: `#${name}`, 'aria-current': name === current ? 'page' : null },
    icon(name), h('span', {}, t(`nav.${name}`)))));
}

function drawTools() {
  const languages = select(Object.entries(LANGUAGES), language, { 'aria-label': t('shell.language'), onchange: change });
  async function change() {
    localStorage.setItem('studio.language', languages.value);
    await loadLanguage(languages.value);
    drawTools();
    await show({ focus: false });
    document.querySelector('#tools select').focus();
  }
  fill(tools, languages,
    button(t('shell.theme'), { icon: 'theme', quiet: true, onclick: switchTheme }),
    button(t(getKey() ? 'key.change' : 'key.enter'), { icon: 'key', quiet: true, class: getKey() ? 'set' : '', onclick: () => askForKey('') }));
}

function switchTheme() {
  const next = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
  document.documentElement.dataset.theme = next;
  localStorage.setItem('studio.theme', next);
}

/** Ask for the key; what a person was doing stays as it is, and the view is drawn again once a key is accepted. */
function askForKey(reason) {
  if (keyDialog) return;
  const input = h('input', { type: 'password', name: 'key', value: getKey(), autocomplete: 'off', spellcheck: 'false', required: true });
  const problem = h('p', { class: 'problem', role: 'alert' }, reason);
  const form = h('form', { class: 'stack', onsubmit: submit }, h('p', {}, t('key.why')), problem, field(t('key.label'), input),
    h('div', { class: 'row' }, button(t('key.save'), { type: 'submit', class: 'primary' }),
      getKey() && button(t('key.forget'), { onclick: () => { setKey(''); node.close(); drawTools(); show(); } })));
  async function submit(event) {
    event.preventDefault();
    const before = getKey();
    setKey(input.value.trim());
    try {
      await getJson('v1/models');
      node.close();
      drawTools();
      await show({ focus: false });
    } catch (error) {
      setKey(before);
      problem.textContent = explain(error);
    }
  }
  const node = dialog(t('key.title'), form, { onclose: () => { keyDialog = null; } });
  keyDialog = node;
  input.focus();
}

async function show({ focus = true } = {}) {
  const [name, ...rest] = location.hash.slice(1).split('/');
  if (name === 'main') return; // the skip link
  const view = VIEWS.includes(name) ? name : VIEWS[0];
  shown.abort();
  shown = new AbortController();
  const { signal } = shown;
  drawNavigation(view);
  document.title = `${t(`nav.${view}`)} · ${t('shell.title')}`;
  const root = h('div', { class: `view ${view}` });
  try {
    const { mount } = await import(`./views/${view}.js`);
    if (signal.aborted) return;
    fill(main, root);
    if (focus) scrollTo(0, 0); // a new view begins at its top; the same one in another language stays
    await mount(root, { signal, path: rest.map(decodeURIComponent) });
  } catch (error) {
    if (signal.aborted) return;
    fill(main, failed(error, () => show()));
  }
  if (focus && document.activeElement === document.body) main.focus({ preventScroll: true });
}

apiEvents.addEventListener('unauthorized', ({ detail }) => askForKey(getKey() ? detail : ''));
let asking = false;
apiEvents.addEventListener('connection', async ({ detail: answered }) => {
  fill(banner, !answered && h('p', {}, icon('warning'), t('error.banner')));
  // Asked every few seconds, so that the page knows when the service is back; views go on by themselves.
  if (answered || asking) return;
  asking = true;
  while (banner.firstChild) {
    await sleep(3000);
    await getJson('health').catch(() => {});
  }
  asking = false;
});

await loadLanguage(preferredLanguage());
drawTools();
addEventListener('hashchange', () => show());
await show({ focus: false });
