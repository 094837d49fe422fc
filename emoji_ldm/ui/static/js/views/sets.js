// Sets: bulk jobs of the service. They go on without the page: who comes back finds them here.

import { getJson, request } from '../api.js';
import { button, fill, h, sleep } from '../dom.js';
import { failed, loading, state, undoable } from '../feedback.js';
import { moment, t } from '../i18n.js';
import { isOpen, setProgress } from '../progress.js';
import { mountDetail } from './set_detail.js';
import { mountForm } from './set_form.js';

const BUSY_MS = 1500; // between two questions while a set is being drawn
const IDLE_MS = 15_000;
const PAGE = 20;
// Sets whose deletion can still be undone.
const hidden = new Set();
let wakeList = () => {}; // asks for the list again, if it is what is shown

export async function mount(root, { signal, path }) {
  if (path[0] === 'new') await mountForm(root, signal);
  else if (path[0]) await mountDetail(root, path[0], signal, remove);
  else await mountList(root, signal);
}

async function mountList(root, signal) {
  const list = h('ul', { class: 'set-list', 'aria-label': t('nav.sets') });
  const rest = h('div', { class: 'row center' });
  fill(root, h('div', { class: 'head' }, h('h1', {}, t('nav.sets')), h('a', { class: 'button primary', href: '#sets/new' }, t('sets.new'))),
    list, rest);
  fill(rest, loading());
  let count = PAGE;
  const more = () => { count += PAGE; wakeList(); };

  while (!signal.aborted) {
    let pause = IDLE_MS;
    try {
      const { found, hasMore } = await newest(count, signal);
      if (signal.aborted) return;
      const shown = found.filter(({ id }) => !hidden.has(id));
      drawList(list, shown);
      fill(rest, hasMore && button(t('show_more'), { onclick: more }),
        !shown.length && state('empty', t('sets.empty'), t('sets.empty_hint'), h('a', { class: 'button primary', href: '#sets/new' }, t('sets.new'))));
      if (found.some((each) => each.counts.pending && isOpen(each))) pause = BUSY_MS;
    } catch (error) {
      if (signal.aborted) return;
      // What was shown stays: a service that is away for a moment takes nothing from the page.
      if (!list.children.length) fill(rest, failed(error, () => wakeList()));
      pause = BUSY_MS * 2;
    }
    await Promise.race([sleep(pause, signal).catch(() => {}), new Promise((resolve) => { wakeList = resolve; })]);
  }
}

/** The newest sets; the service gives them in pages. */
async function newest(count, signal) {
  const found = [];
  let page = { has_more: true, last_id: '' };
  while (page.has_more && found.length < count) {
    page = await getJson(`v1/emoji-sets?limit=${PAGE}${page.last_id && `&after=${page.last_id}`}`, { signal });
    found.push(...page.data);
  }
  return { found, hasMore: page.has_more };
}

function drawList(list, sets) {
  const focused = document.activeElement?.closest?.('li')?.dataset.id;
  fill(list, sets.map((set) => h('li', { class: 'set', 'data-id': set.id },
    h('a', { href: `#sets/${set.id}` }, h('strong', {}, set.name || t('sets.unnamed')), h('span', { class: 'quiet' }, moment(set.created_at * 1000))),
    setProgress(set),
    button(t('action.delete_name', { name: set.name || t('sets.unnamed') }), { icon: 'remove', quiet: true, class: 'bare', onclick: () => remove(set) }))));
  if (focused) list.querySelector(`[data-id="${focused}"] a`)?.focus();
}

/** Delete a set on the service after the time to undo. */
function remove(set) {
  undoable(t('sets.removed', { name: set.name || t('sets.unnamed') }), {
    hide: () => { hidden.add(set.id); wakeList(); },
    show: () => { hidden.delete(set.id); wakeList(); },
    work: async () => { await request(`v1/emoji-sets/${set.id}`, { method: 'DELETE' }); },
  });
}
