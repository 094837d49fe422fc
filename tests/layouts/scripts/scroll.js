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
  box.addEventListener("scroll", () => {
    if (box.scrollTop + box.clientHeight > box.scrollHeight - 100) more();
  });
} else {
  new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) more();
  }, { rootMargin: "100px" }).observe(document.getElementById("end"));
}
