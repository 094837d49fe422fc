// Infinite scroll: loads the next page when the end of the window or of an inner box is near.
let number = 1, isLoading = false, hasMore = true;
const more = async () => {
  if (isLoading || !hasMore) return;
  isLoading = true;
  const found = await getJSON(`${C.api}?page=${number += 1}`);
  grid().append(...found.items.map((item) => nodeOf(item)));
  if (number % C.advert_every === 0) grid().append(nodeOf({}, C.advert));
  hasMore = found.has_more;
  isLoading = false;
  if (!hasMore && document.getElementById("end")) document.getElementById("end").textContent = "That is all.";
};
if (C.inner) {
  const box = document.querySelector(C.inner);
  const check = async () => {
    while (hasMore && !isLoading && box.scrollTop + box.clientHeight > box.scrollHeight - 100) await more();
  };
  box.addEventListener("scroll", check);
  check(); // a box that the first tiles do not fill could not be scrolled
} else {
  const end = document.getElementById("end");
  const near = new IntersectionObserver(async (entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    await more();
    // An end that is still in view after loading would not be reported again.
    near.unobserve(end);
    if (hasMore) near.observe(end);
  }, { rootMargin: "100px" });
  near.observe(end);
}
