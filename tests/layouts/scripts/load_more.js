// A button for more: inactive while it loads, gone at the end.
let number = 1;
const button = document.querySelector(C.more);
button.addEventListener("click", async (event) => {
  event.preventDefault();
  if (button.dataset.busy) return;
  button.dataset.busy = "1";
  const text = button.textContent;
  button.textContent = "Loading…";
  const found = await getJSON(`${C.api}?page=${number += 1}`);
  grid().append(...found.items.map((item) => nodeOf(item)));
  button.textContent = text;
  delete button.dataset.busy;
  if (!found.has_more) button.remove();
});
