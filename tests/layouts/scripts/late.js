// Replaces the skeletons after a while, then adds the rest in steps.
const hydrate = async () => {
  await sleep(C.wait_ms);
  for (let number = 1; number <= C.pages; number += 1) {
    const found = await getJSON(`${C.api}?page=${number}`);
    if (number === 1) grid().replaceChildren();
    grid().append(...found.items.map((item) => nodeOf(item)));
    await sleep(C.gap_ms);
  }
};
hydrate();
