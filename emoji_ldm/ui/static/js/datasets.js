// What the parts of Data share: paths of a version, the choice of one, and lists that grow page by page.

import { getJson } from './api.js';
import { button, fill, h } from './dom.js';
import { failed, loading } from './feedback.js';
import { moment, t } from './i18n.js';

const KINDS = ['line', 'tag', 'commit'];

/** A path of the API below a version of the data set. */
export const datasetPath = (version, rest = '') => `v1/datasets/${encodeURIComponent(version)}${rest}`;

/** A select of versions by kind; `exclude` names one that makes no sense. */
export function versionSelect(versions, chosen, choose, { label = t('data.version'), exclude } = {}) {
  const known = versions.filter((each) => each.id !== exclude);
  const option = (each) => h('option', { value: each.id }, [each.id, each.message, each.created_at && moment(each.created_at * 1000)].filter(Boolean).join(' · '));
  const groups = KINDS.map((kind) => [kind, known.filter((each) => each.kind === kind)]).filter(([, own]) => own.length);
  const node = h('select', { 'aria-label': label, class: 'versions', onchange: () => choose(node.value) },
    !known.some((each) => each.id === chosen) && h('option', { value: chosen }, chosen || t('data.choose')),
    groups.map(([kind, own]) => h('optgroup', { label: t(`data.kind_${kind}`) }, own.map(option))));
  node.value = chosen;
  return node;
}

/**
 * A list that grows page by page: `path(after)` is asked, `draw(items)` gets what came; returns the function that starts anew.
 * An answer may hold nothing although more follows, since a search reads a bounded part of the table.
 */
export function pagedList(rest, { signal, path, draw, empty, note }) {
  let generation = 0;
  const start = async () => {
    generation += 1;
    const own = generation;
    let after = '';
    let count = 0;
    const load = async () => {
      // What tells that it is loading goes when the page comes, so that it is not moved by it.
      const wait = loading();
      fill(rest);
      rest.parentElement.querySelector(':scope > .state.loading')?.remove(); // of a list that was started before
      rest.after(wait);
      try {
        let page;
        do {
          page = await getJson(path(after), { signal });
          if (signal.aborted || own !== generation) return;
          draw(page, count === 0 && after === '');
          count += page.data.length;
          after = page.next;
        } while (page.has_more && !page.data.length);
        note?.(count, page.has_more);
        wait.remove();
        fill(rest, page.has_more && button(t('show_more'), { onclick: load }), !count && empty());
      } catch (error) {
        wait.remove();
        if (!signal.aborted && own === generation) fill(rest, failed(error, load));
      }
    };
    await load();
  };
  return start;
}
