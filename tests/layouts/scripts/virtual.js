// A virtual list: only the rows in view exist. With `recycles` the same elements get other pictures.
const list = document.getElementById("list");
const box = C.inner ? list : window;
if (C.inner) list.style.cssText = "height:600px;overflow-y:scroll;position:relative";
const inner = document.createElement("div");
inner.style.position = "relative";
list.append(inner);
getJSON(C.api).then(({ items }) => {
  const rows = Math.ceil(items.length / C.columns), live = new Map(), spare = [];
  inner.style.height = `${rows * C.row_px}px`;
  const fillRow = (element, row) => {
    const shown = items.slice(row * C.columns, (row + 1) * C.columns);
    if (C.recycles && element.children.length) {
      [...element.children].forEach((tile, n) => {
        tile.hidden = !shown[n];
        if (!shown[n]) return;
        const fresh = nodeOf(shown[n]);
        if (fresh.title) tile.title = fresh.title;
        for (const name of ["src", "alt"]) tile.querySelector("img")[name] = fresh.querySelector("img").getAttribute(name);
      });
    } else {
      element.replaceChildren(...shown.map((item) => nodeOf(item)));
    }
    element.style.cssText = `display:flex;gap:8px;position:absolute;top:0;transform:translateY(${row * C.row_px}px)`;
  };
  const update = () => {
    const top = C.inner ? list.scrollTop : Math.max(0, -list.getBoundingClientRect().top);
    const first = Math.max(0, Math.floor(top / C.row_px) - 1);
    const last = Math.min(rows - 1, Math.ceil((top + (C.inner ? 600 : innerHeight)) / C.row_px));
    for (const [row, element] of live) {
      if (row >= first && row <= last) continue;
      live.delete(row);
      element.remove();
      if (C.recycles) spare.push(element);
    }
    for (let row = first; row <= last; row += 1) {
      if (live.has(row)) continue;
      const element = spare.pop() || document.createElement("div");
      fillRow(element, row);
      live.set(row, element);
      inner.append(element);
    }
  };
  box.addEventListener("scroll", () => requestAnimationFrame(update));
  update();
});
