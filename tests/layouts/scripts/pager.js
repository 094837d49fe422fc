// A single-page application: renders page ?page=N from JSON; page links, or buttons that push the history.
const pageNow = () => Number(new URLSearchParams(location.search).get("page") || 1);
const show = async (number) => {
  const found = await getJSON(`${C.api}?page=${number}`);
  const list = document.createElement("div");
  list.className = C.gridClass;
  list.append(...found.items.map((item) => nodeOf(item)));
  const pages = document.createElement("nav");
  pages.setAttribute("aria-label", "pagination");
  for (let n = 1; n <= C.pages; n += 1) {
    const step = document.createElement(C.buttons ? "button" : "a");
    step.textContent = n;
    step.setAttribute("aria-label", n === number ? `page ${n}` : `Go to page ${n}`);
    if (n === number) step.setAttribute("aria-current", "true");
    if (C.buttons) {
      step.onclick = () => { history.pushState({}, "", `?page=${n}`); show(n); };
    } else {
      step.href = `?page=${n}`;
    }
    pages.append(step, " ");
  }
  document.getElementById("root").replaceChildren(list, pages);
};
addEventListener("popstate", () => show(pageNow()));
setTimeout(() => show(pageNow()), C.delay_ms);
