// Elements without HTML strings: what a person or a file brings becomes a text node or an attribute, never markup.

const SVG = 'http://www.w3.org/2000/svg';
// Set as properties: their attributes are only the initial values.
const PROPERTIES = new Set(['value', 'checked', 'disabled', 'indeterminate', 'selected', 'open', 'srcObject']);

/** An element. `on...` are listeners; null, undefined and false leave an attribute or a child out. */
export function h(tag, props, ...children) {
  const node = document.createElement(tag);
  const late = [];
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) late.push([name, value]);
    else if (value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  append(node, children);
  // A select takes its value only once its options are there.
  for (const [name, value] of late) node[name] = value;
  return node;
}

export function append(node, children) {
  node.append(...[children].flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
}

/** Replace the content of an element. */
export function fill(node, ...children) {
  node.replaceChildren();
  append(node, children);
  return node;
}

const ICONS = {
  create: 'M12 3l1.9 5.1L19 10l-5.1 1.9L12 17l-1.9-5.1L5 10l5.1-1.9zM19 15v5M16.5 17.5h5',
  sets: 'M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z',
  gallery: 'M3 5h18v14H3zM3 16l5-5 4 4 3-3 6 6M15.5 9.5h.01',
  compare: 'M4 4h6v16H4zM14 4h6v16h-6z',
  pack: 'M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9',
  data: 'M5 6c0-1.7 3.1-3 7-3s7 1.3 7 3-3.1 3-7 3-7-1.3-7-3zM5 6v12c0 1.7 3.1 3 7 3s7-1.3 7-3V6M5 12c0 1.7 3.1 3 7 3s7-1.3 7-3',
  training: 'M4 4v16h16M7 15l4-5 3 3 5-7',
  left: 'M15 6l-6 6 6 6',
  right: 'M9 6l6 6-6 6',
  play: 'M8 5l11 7-11 7z',
  brush: 'M19.5 4.5c-3 1.5-7 5-9 8l1.5 1.5c3-2 6.5-6 8-9zM9.5 13.5c-2.500 0-3.500 1.500-3.500 3 0 1.500-1 2.500-2 2.500 3 1 7 .5 7.500-3.500',
  key: 'M15.5 4a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9M12.3 11.7L4 20M6.5 17.5L9 20',
  up: 'M6 15l6-6 6 6',
  theme: 'M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6l1.5 1.5M16.9 16.9l1.5 1.5M5.6 18.4l1.5-1.5M16.9 7.1l1.5-1.5M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8',
  download: 'M12 4v11M7 11l5 5 5-5M5 20h14',
  remove: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13',
  close: 'M6 6l12 12M18 6L6 18',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  reroll: 'M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6',
  recall: 'M4 12a8 8 0 1 1 2.3 5.7M4 19v-6h6',
  star: 'M12 4l2.5 5.1 5.6.8-4 4 1 5.6-5.1-2.7L6.9 19.5l1-5.6-4-4 5.6-.8z',
  search: 'M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13M15.5 15.5L20 20',
  add: 'M12 5v14M5 12h14',
  upload: 'M12 16V5M7 9l5-5 5 5M5 20h14',
  warning: 'M12 4l9 16H3zM12 10v4M12 17h.01',
};

/** One of the icons; screen readers skip it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  for (const [key, value] of Object.entries({ viewBox: '0 0 24 24', class: 'icon', 'aria-hidden': 'true' })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button with a text; `icon` stands before it, `quiet` hides the text from the eye alone. */
export function button(label, { icon: name, quiet, class: kind = '', ...props } = {}) {
  const text = h('span', { class: quiet ? 'visually-hidden' : null }, label);
  const title = quiet ? label : null;
  return h('button', { type: 'button', class: `${kind}${quiet ? ' icon-only' : ''}`.trim() || null, title, ...props },
    name && icon(name), text);
}

/** A control with its label above and an optional hint below. */
export function field(label, control, hint) {
  return h('label', { class: 'field' }, h('span', { class: 'label' }, label), control,
    hint && h('small', { class: 'hint' }, hint));
}

/** A select of [value, text] pairs, or of texts. */
export function select(options, value, props = {}) {
  const pairs = options.map((each) => (Array.isArray(each) ? each : [each, each]));
  return h('select', { ...props, value }, pairs.map(([key, text]) => h('option', { value: key }, text)));
}

/** Calls `work` once, `ms` after the last call. */
export function debounce(work, ms) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(work, ms, ...values);
  };
}

/** Resolves after `ms`; rejects with the signal's reason if it is aborted before. */
export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

/** Save a Blob as a file. */
export function saveFile(blob, name) {
  const url = URL.createObjectURL(blob);
  h('a', { href: url, download: name }).click();
  // The browser reads the Blob after the click; a minute is enough for it to begin.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
