// Texts of the page. A dictionary is one flat JSON file per language; `{name}` in a text is replaced by a value.

export const LANGUAGES = { en: 'English', vi: 'Tiếng Việt' };
let texts = {};
let plural = new Intl.PluralRules('en');
export let language = 'en';

/** The language that was chosen, else the browser's if there is a dictionary for it. */
export function preferredLanguage() {
  const wished = [localStorage.getItem('studio.language'), ...navigator.languages.map((each) => each.slice(0, 2))];
  return wished.find((each) => each in LANGUAGES) ?? 'en';
}

export async function loadLanguage(name) {
  const response = await fetch(`studio/i18n/${name}.json`);
  texts = await response.json();
  language = name;
  plural = new Intl.PluralRules(name);
  document.documentElement.lang = name;
  for (const node of document.querySelectorAll('[data-t]')) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll('[data-t-label]')) node.setAttribute('aria-label', t(node.dataset.tLabel));
}

/** A text. With a number `n`, the entry `key.one` or `key.other` is taken, if there is one. */
export function t(key, values = {}) {
  const numbered = 'n' in values ? texts[`${key}.${plural.select(values.n)}`] : undefined;
  const text = numbered ?? texts[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? show(values[name]) : whole));
}

function show(value) {
  return typeof value === 'number' ? value.toLocaleString(language) : String(value);
}

/** A duration in seconds as a short text. */
export function duration(seconds) {
  if (seconds < 90) return t('time.seconds', { count: Math.max(1, Math.round(seconds)) });
  if (seconds < 5400) return t('time.minutes', { count: Math.round(seconds / 60) });
  return t('time.hours', { count: Math.round(seconds / 360) / 10 });
}

/** A moment (ms) as a short text. */
export function moment(ms) {
  return new Date(ms).toLocaleString(language, { dateStyle: 'medium', timeStyle: 'short' });
}
