// Prompts from text that a person brings: lines, CSV, JSONL. What cannot be read is told by its line, and the rest is used.

import { MAX_PROMPT } from './fields.js';
import { nameOf, uniqueNames, withoutStyle } from './prompt.js';

export const MAX_LINES = 50_000; // of one set, as the service has it

/** Prompts of a file as {rows: [{prompt, name?, n?, seed?, ...}], problems: [{line, reason, ...}]}; the kind follows from name and content. */
export function readPrompts(text, fileName = '') {
  const clean = text.replace(/^\uFEFF/, '');
  if (/\.jsonl?$|\.ndjson$/i.test(fileName) || /^\s*\{/.test(clean)) return readJsonLines(clean);
  if (/\.(csv|tsv)$/i.test(fileName)) return readTable(clean);
  return readLines(clean);
}

/** One prompt per line. */
export function readLines(text) {
  return check(text.split(/\r?\n/).map((prompt, index) => ({ line: index + 1, values: { prompt: prompt.trim() } })).filter(({ values }) => values.prompt));
}

export function readJsonLines(text) {
  return check(text.split(/\r?\n/).flatMap((line, index) => {
    if (!line.trim()) return [];
    try {
      const values = JSON.parse(line);
      const isObject = values !== null && typeof values === 'object' && !Array.isArray(values);
      return [{ line: index + 1, values: isObject ? values : {}, reason: isObject ? '' : 'not_object' }];
    } catch {
      return [{ line: index + 1, values: {}, reason: 'not_json' }];
    }
  }));
}

/** CSV or TSV (RFC 4180) with a header that has `prompt`, or without a header and prompts in the first column. */
export function readTable(text) {
  const end = text.indexOf('\n') < 0 ? text.length : text.indexOf('\n');
  const first = text.slice(0, end);
  const separator = ['\t', ';', ','].find((each) => first.includes(each)) ?? ',';
  const records = readRecords(text, separator);
  const header = (records[0]?.cells ?? []).map((cell) => cell.trim().toLowerCase());
  const hasHeader = header.includes('prompt');
  const names = hasHeader ? header : ['prompt', 'name'];
  return check(records.slice(hasHeader ? 1 : 0).map(({ line, cells, reason }) => ({
    line, reason, values: Object.fromEntries(names.map((name, index) => [name, (cells[index] ?? '').trim()]).filter(([, cell]) => cell)),
  })));
}

/**
 * Records of a table. A quote that is never closed, or is followed by other text, spoils its own line alone: reading
 * goes on with the next line, so that one stray quote does not swallow the rest of the file.
 */
function readRecords(text, separator) {
  const records = [];
  let at = 0;
  let line = 1;
  while (at < text.length) {
    const record = readRecord(text, at, separator);
    const end = record.broken ? lineEnd(text, at) : record.end;
    const cells = record.broken ? [] : record.cells;
    if (record.broken || cells.some((cell) => cell.trim())) records.push({ line, cells, reason: record.broken ? 'quote' : '' });
    for (let next = text.indexOf('\n', at); next >= 0 && next < end; next = text.indexOf('\n', next + 1)) line += 1;
    at = end;
  }
  return records;
}

function readRecord(text, start, separator) {
  const cells = [];
  let at = start;
  for (;;) {
    let cell;
    if (text[at] === '"') {
      const close = closingQuote(text, at + 1);
      if (close < 0) return { broken: true };
      cell = text.slice(at + 1, close).replaceAll('""', '"');
      at = close + 1;
      if (at < text.length && text[at] !== separator && text[at] !== '\n' && text[at] !== '\r') return { broken: true };
    } else {
      const from = at;
      while (at < text.length && text[at] !== separator && text[at] !== '\n') at += 1;
      cell = text.slice(from, at);
    }
    cells.push(cell.replace(/\r$/, ''));
    if (text[at] === separator) { at += 1; continue; }
    if (text[at] === '\r') at += 1;
    return { cells, end: at + 1 };
  }
}

/** Where a quoted cell ends; -1 if it does not end within the length of a prompt. */
function closingQuote(text, from) {
  const limit = Math.min(text.length, from + 2 * MAX_PROMPT);
  for (let at = from; at < limit; at += 1) {
    if (text[at] !== '"') continue;
    if (text[at + 1] !== '"') return at;
    at += 1;
  }
  return -1;
}

const lineEnd = (text, at) => (text.indexOf('\n', at) < 0 ? text.length : text.indexOf('\n', at) + 1);

function check(records) {
  const rows = [];
  const problems = [];
  for (const { line, values, reason } of records) {
    const { prompt } = values;
    const why = reason || (typeof prompt !== 'string' || !prompt.trim() ? 'no_prompt' : prompt.length > MAX_PROMPT ? 'too_long' : rows.length === MAX_LINES ? 'too_many' : '');
    if (why) problems.push({ line, reason: why });
    else rows.push(values);
  }
  return { rows, problems };
}

/** Every subject in every expression and colour, as prompts with names. */
export function matrix(subjects, expressions, colours, write) {
  const lines = (text) => { const found = text.split('\n').map((each) => each.trim()).filter(Boolean); return found.length ? found : ['']; };
  return lines(subjects).filter(Boolean).flatMap((subject) => lines(expressions).flatMap((expression) => lines(colours).map((colour) => ({
    prompt: write(subject, { expression, skin_color: colour }), name: [colour, withoutStyle(subject), expression].filter(Boolean).join(' '),
  }))));
}

const NUMBERS = ['n', 'seed', 'steps', 'num_inference_steps', 'guidance_scale'];
const TEXTS = ['negative_prompt', 'model', 'lora', 'scheduler', 'size'];

/** The rows as JSONL for the service; `custom_id` is the name of the emoji, made unique. */
export function toJsonLines(rows) {
  // A name that was given is kept as it is, as far as the targets of packs allow.
  const given = (row) => row.name ?? row.custom_id;
  const names = uniqueNames(rows.map((row) => (given(row) ? nameOf(String(given(row)), Infinity) : nameOf(row.prompt))));
  return rows.map((row, index) => {
    const line = { custom_id: names[index], prompt: row.prompt };
    for (const name of TEXTS) if (row[name]) line[name] = row[name];
    for (const name of NUMBERS) if (row[name] !== undefined && row[name] !== '') line[name] = Number(row[name]);
    return JSON.stringify(line);
  }).join('\n');
}
