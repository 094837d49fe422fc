// PNG files: the texts that say how a picture was made, and pictures laid on a colour without losing those texts.
// Format: PNG specification, sections 5.2 (signature), 5.3 (chunks) and 11.3.3 (texts).

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const TEXT_CHUNKS = ['tEXt', 'iTXt'];

/** Whether the bytes begin as a PNG file does. */
export const isPng = (bytes) => SIGNATURE.every((value, index) => bytes[index] === value);

/** The kind of an image file by its first bytes, whatever its name says; null if it is none that the service reads. */
export async function imageKind(file) {
  const bytes = new Uint8Array(await file.slice(0, 16).arrayBuffer());
  const text = String.fromCharCode(...bytes);
  if (isPng(bytes)) return 'png';
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return 'jpeg';
  if (text.startsWith('GIF8')) return 'gif';
  if (text.startsWith('RIFF') && text.slice(8, 12) === 'WEBP') return 'webp';
  return null;
}

/** Chunks as {type, start, end} of their place in the file, length and checksum included. */
function chunksOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const chunks = [];
  for (let start = 8; start + 12 <= bytes.length;) {
    const end = start + 12 + view.getUint32(start);
    if (end > bytes.length) break; // a file that was cut off: what is whole is read
    chunks.push({ type: String.fromCharCode(...bytes.subarray(start + 4, start + 8)), start, end });
    start = end;
  }
  return chunks;
}

/** The texts of a PNG file by their keyword; an empty object for other files. */
export async function readTexts(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  if (!isPng(bytes)) return {};
  const texts = {};
  for (const { type, start, end } of chunksOf(bytes)) {
    if (!TEXT_CHUNKS.includes(type)) continue;
    const data = bytes.subarray(start + 8, end - 4);
    const split = data.indexOf(0);
    const keyword = new TextDecoder('latin1').decode(data.subarray(0, split));
    if (type === 'tEXt') texts[keyword] = new TextDecoder('latin1').decode(data.subarray(split + 1));
    // iTXt: compression flag and method, language and translated keyword, each ended by 0; ours are not compressed.
    else if (data[split + 1] === 0) {
      const translated = data.indexOf(0, data.indexOf(0, split + 3) + 1);
      texts[keyword] = new TextDecoder().decode(data.subarray(translated + 1));
    }
  }
  return texts;
}

/** The parameters of a generated PNG file, under the names of the API; null if it does not state them. */
export async function readParameters(blob) {
  const texts = await readTexts(blob);
  if (!('prompt' in texts) || !('seed' in texts)) return null;
  const { prompt, negative_prompt = '', scheduler = '', lora = '', model_key = '', made_with = '' } = texts;
  const params = { negative_prompt, scheduler, lora, model_key, made_with, seed: Number(texts.seed),
    steps: Number(texts.steps), guidance_scale: Number(texts.guidance_scale) };
  if ('strength' in texts) params.strength = Number(texts.strength);
  return { prompt, params };
}

/** The picture on a ground of one colour, as PNG with the texts of the original. */
export async function onColour(blob, colour) {
  const image = await createImageBitmap(blob);
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext('2d');
  context.fillStyle = colour;
  context.fillRect(0, 0, image.width, image.height);
  context.drawImage(image, 0, 0);
  const flat = await new Promise((resolve) => { canvas.toBlob(resolve, 'image/png'); });
  return withTextsOf(blob, flat);
}

async function withTextsOf(source, target) {
  const [from, to] = await Promise.all([source, target].map(async (each) => new Uint8Array(await each.arrayBuffer())));
  if (!isPng(from)) return target;
  const texts = chunksOf(from).filter(({ type }) => TEXT_CHUNKS.includes(type));
  // Chunks carry their own checksum, so they are copied as they are, behind the header (the first chunk).
  const header = chunksOf(to)[0].end;
  const parts = texts.map(({ start, end }) => from.subarray(start, end));
  return new Blob([to.subarray(0, header), ...parts, to.subarray(header)], { type: 'image/png' });
}
