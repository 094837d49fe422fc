// A mask drawn on the start picture: what is painted is drawn anew. By mouse, finger or pen, or by keyboard.

import { button, field, fill, h } from './dom.js';
import { dialog, notice } from './feedback.js';
import { t } from './i18n.js';

const SHOWN_PX = 512; // side of the longer edge on the page
const STEP = 0.02; // of the picture's longer side, for the arrow keys
const INK = 'rgb(255 60 120 / 60%)';

/** Open the editor for a picture (a File); `use(file)` gets the mask as PNG, transparent where it was painted. */
export async function drawMask(picture, use) {
  const image = await createImageBitmap(picture);
  const [width, height] = [image.width, image.height];
  const longer = Math.max(width, height);
  const scale = Math.max(1, Math.min(SHOWN_PX / longer, 16)); // canvas pixels of one of the picture
  const canvas = h('canvas', { width: Math.round(width * scale), height: Math.round(height * scale), tabindex: 0, class: 'mask ground checker', role: 'application', 'aria-label': t('mask.canvas') });
  const paint = canvas.getContext('2d');
  const strokes = []; // {size, erases, points: [[x, y]]}, in shares of the longer side
  const size = h('input', { type: 'range', name: 'brush', min: 0.02, max: 0.4, step: 0.01, value: 0.12, oninput: redraw });
  const erases = h('input', { type: 'checkbox', name: 'erase' });
  const undo = button(t('undo'), { icon: 'recall', onclick: () => { strokes.pop(); redraw(); } });
  const clear = button(t('mask.clear'), { icon: 'remove', onclick: () => { strokes.length = 0; redraw(); } });
  const done = button(t('mask.use'), { icon: 'check', class: 'primary', onclick: finish });
  const status = h('p', { class: 'hint', role: 'status' });
  let cursor = null; // where the keyboard is
  let active = null; // the stroke of the pointer

  /** Draw the strokes on a context whose longer side has `side` pixels. */
  function drawStrokes(context, side, ink) {
    Object.assign(context, { lineCap: 'round', lineJoin: 'round', strokeStyle: ink, fillStyle: ink });
    for (const stroke of strokes) {
      context.globalCompositeOperation = stroke.erases ? 'destination-out' : 'source-over';
      context.lineWidth = stroke.size * side;
      context.beginPath();
      stroke.points.forEach(([x, y], index) => context[index ? 'lineTo' : 'moveTo'](x * side, y * side));
      // A line of one point has no length, and would not be drawn.
      if (stroke.points.length === 1) context.lineTo(stroke.points[0][0] * side + 0.01, stroke.points[0][1] * side);
      context.stroke();
    }
    context.globalCompositeOperation = 'source-over';
  }

  /** The painted part as an image of its own, in full ink: overlapping strokes are no darker. */
  function painted(side) {
    const layer = new OffscreenCanvas(Math.round(side * width / longer), Math.round(side * height / longer));
    drawStrokes(layer.getContext('2d'), side, '#000');
    return layer;
  }

  function redraw() {
    const side = longer * scale;
    const layer = painted(side);
    const tint = layer.getContext('2d');
    tint.globalCompositeOperation = 'source-in';
    tint.fillStyle = INK;
    tint.fillRect(0, 0, layer.width, layer.height);
    paint.clearRect(0, 0, canvas.width, canvas.height);
    paint.drawImage(image, 0, 0, canvas.width, canvas.height);
    paint.drawImage(layer, 0, 0);
    if (cursor) {
      paint.strokeStyle = '#000';
      paint.setLineDash([4, 4]);
      paint.beginPath();
      paint.arc(cursor[0] * side, cursor[1] * side, Number(size.value) * side / 2, 0, 7);
      paint.stroke();
      paint.setLineDash([]);
    }
    undo.disabled = clear.disabled = done.disabled = !strokes.length;
  }

  const begin = (point) => { strokes.push({ size: Number(size.value), erases: erases.checked, points: [point] }); return strokes.at(-1); };

  function placeOf(event) {
    const box = canvas.getBoundingClientRect();
    const side = Math.max(box.width, box.height);
    return [(event.clientX - box.left) / side, (event.clientY - box.top) / side];
  }

  canvas.addEventListener('pointerdown', (event) => {
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    cursor = null;
    active = begin(placeOf(event));
    redraw();
  });
  canvas.addEventListener('pointermove', (event) => { if (active) { active.points.push(placeOf(event)); redraw(); } });
  for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, () => { active = null; });
  canvas.addEventListener('keydown', (event) => {
    const move = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (!move && event.key !== ' ' && !(event.key === 'z' && event.ctrlKey)) return;
    event.preventDefault();
    cursor ??= [width / longer / 2, height / longer / 2];
    if (event.key === 'z') strokes.pop();
    else if (event.key === ' ') begin([...cursor]);
    else cursor = cursor.map((each, axis) => Math.min(Math.max(each + move[axis], 0), (axis ? height : width) / longer));
    // With Shift the brush paints while it moves.
    if (move && event.shiftKey) begin([...cursor]);
    status.textContent = t('mask.at', { x: Math.round(cursor[0] * 100), y: Math.round(cursor[1] * 100) });
    redraw();
  });

  async function finish() {
    const mask = new OffscreenCanvas(width, height);
    const context = mask.getContext('2d');
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = 'destination-out';
    context.drawImage(painted(longer), 0, 0);
    const blob = await mask.convertToBlob({ type: 'image/png' });
    node.close();
    use(new File([blob], t('mask.file'), { type: 'image/png' }));
    notice(t('mask.used'));
  }

  const body = h('div', { class: 'stack' });
  const node = dialog(t('mask.title'), body, { wide: true, onclose: () => image.close() });
  fill(body, h('p', { class: 'hint' }, t('mask.about')), h('div', { class: 'mask-place' }, canvas), status,
    h('div', { class: 'pair' }, field(t('mask.size'), size), h('label', { class: 'check' }, erases, t('mask.erase'))), h('div', { class: 'row wrap' }, done, undo, clear));
  redraw();
  canvas.focus();
}
