// How far a bulk set is.

import { h } from './dom.js';
import { duration, t } from './i18n.js';

export const isOpen = ({ status }) => status === 'queued' || status === 'in_progress';

/** The state of a set in a line, with its bar. */
export function setProgress(set) {
  const { counts } = set;
  const rate = set.images_per_s ? t('sets.rate', { rate: Math.round(set.images_per_s * 10) / 10 }) : '';
  const left = isOpen(set) && set.eta_s ? t('sets.eta', { time: duration(set.eta_s) }) : '';
  const broken = counts.failed ? t('sets.failed', { n: counts.failed }) : '';
  return h('div', { class: 'set-progress' },
    h('progress', { max: Math.max(1, counts.total), value: counts.completed + counts.failed, 'aria-label': t('sets.progress') }),
    h('span', { class: `status ${set.status}` }, [t(`status.${set.status}`), t('sets.counts', { done: counts.completed, total: counts.total }), broken, isOpen(set) ? rate : '', left].filter(Boolean).join(' · ')));
}
