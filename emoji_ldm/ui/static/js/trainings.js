// What the list of trainings and a single one share.

import { h } from './dom.js';
import { failed, state } from './feedback.js';
import { duration, t } from './i18n.js';

/** A state in place of trainings that cannot be shown. */
export function trainingProblem(error, retry) {
  if (error.status === 403) return state('empty', t('data.forbidden'), error.message);
  if (error.code === 'unknown_url') return state('empty', t('training.not_here'), t('data.not_here_hint'));
  if (error.code === 'run_not_found') return state('error', t('training.no_run'), error.message, h('a', { class: 'button primary', href: '#training' }, t('training.all')));
  return failed(error, retry);
}

/** How long ago a moment (Unix time) was. */
export const ago = (seconds) => t('training.ago', { time: duration(Math.max(1, Date.now() / 1000 - seconds)) });
