// Files that a person brings: what they are, by their content, and dropping them on the page.

import { t } from './i18n.js';
import { imageKind } from './png.js';

export const MAX_IMAGE_BYTES = 8 * 2 ** 20; // as the service has it (edit_requests.MAX_FILE_BYTES)

/** Why a file is no image that the service takes; empty if it is one. */
export async function imageProblem(file) {
  if (!file.size) return t('file.empty', { name: file.name });
  if (file.size > MAX_IMAGE_BYTES) return t('file.too_large', { name: file.name, size: Math.round(file.size / 2 ** 20), most: MAX_IMAGE_BYTES / 2 ** 20 });
  if (!await imageKind(file)) return t('file.no_image', { name: file.name });
  // The first bytes may lie; the browser's own decoder does not.
  const image = await createImageBitmap(file).catch(() => null);
  image?.close();
  return image ? '' : t('file.broken', { name: file.name });
}

/** Take files that are dropped on an element. */
export function fileDrop(node, signal, work) {
  const over = (on) => (event) => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    node.classList.toggle('dropping', on);
  };
  node.addEventListener('dragover', over(true), { signal });
  node.addEventListener('dragleave', over(false), { signal });
  node.addEventListener('drop', (event) => {
    over(false)(event);
    if (event.dataTransfer?.files.length) work([...event.dataTransfer.files]);
  }, { signal });
}
