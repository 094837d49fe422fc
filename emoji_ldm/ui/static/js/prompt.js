// The form of a prompt: the sentence that captions have (emoji_ldm/caption/sentence_format.py), so that the model reads
// what it was trained on. A test compares the two.

/** The seven attributes in the order of the sentence, with values to choose from. */
export const ATTRIBUTES = {
  head_shape: ['round head', 'square head', 'cat head', 'heart-shaped head'],
  eyes: ['big black', 'closed', 'heart', 'star', 'winking'],
  mouth: ['smiling', 'open', 'small', 'frowning', 'tongue-out'],
  expression: ['happy', 'sad', 'angry', 'surprised', 'loving', 'sleepy'],
  skin_color: ['yellow', 'blue', 'green', 'pink', 'brown'],
  action: ['waving one hand', 'giving a thumbs up', 'crying', 'laughing', 'dancing'],
  background: ['transparent', 'white', 'yellow', 'blue'],
};

const withArticle = (noun) => `${'aeiou'.includes(noun[0].toLowerCase()) ? 'an' : 'a'} ${noun}`;

/** The prompt for a subject and the attributes that are set; the subject alone if none is. */
export function writePrompt(subject, attributes) {
  const known = Object.fromEntries(Object.keys(ATTRIBUTES).map((name) => [name, (attributes[name] ?? '').trim()]));
  if (!Object.values(known).some(Boolean)) return subject.trim();
  const title = subject.trim().replace(/[\s.,]+$/, '').replace(/\s+emoji$/i, '');
  const first = known.head_shape ? `${title} emoji with ${withArticle(known.head_shape)}` : `${title} emoji`;
  const clauses = [
    known.eyes && `${known.eyes} eyes`, known.mouth && `${known.mouth} mouth`,
    known.expression && `${known.expression} expression`, known.skin_color && `${known.skin_color} skin color`,
    known.action, known.background && `with ${withArticle(known.background)} background`,
  ];
  return `${[first, ...clauses].filter(Boolean).join(', ')}.`;
}

const FILLERS = new Set(['a', 'an', 'the', 'emoji', 'of', 'with', 'and', 'in', 'on', 'is']);

/** A text without the style that it begins with, such as `noto style:`. */
export const withoutStyle = (text) => text.replace(/^[^:]*\bstyle:\s*/i, '');

/** A name for an emoji: two to 32 of a-z, 0-9 and _, from the first words of a text. */
export function nameOf(text, numWords = 3) {
  const plain = withoutStyle(text).normalize('NFKD').replace(/\p{M}/gu, '').replace(/[đĐ]/g, 'd').toLowerCase();
  const words = plain.split(/[^a-z0-9]+/).filter((word) => word && !FILLERS.has(word));
  const name = words.slice(0, numWords).join('_').slice(0, 32).replace(/_+$/, '');
  return name.length > 1 ? name : `emoji_${name}`.replace(/_$/, '');
}

/** The names, each made unique by a number at its end; the first one of a kind keeps its name. */
export function uniqueNames(names) {
  const taken = new Set();
  const next = new Map(); // where to go on counting, so that thousands of equal names take no time
  return names.map((name) => {
    let own = name;
    for (let number = next.get(name) ?? 2; taken.has(own); number += 1) {
      own = `${name.slice(0, 32 - `_${number}`.length)}_${number}`;
      next.set(name, number + 1);
    }
    taken.add(own);
    return own;
  });
}
