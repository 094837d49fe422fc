// Fills a blank image once it comes into view, from its copy for readers without scripts, as old Next.js does.
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    const holder = document.createElement("template");
    holder.innerHTML = target.parentNode.querySelector("noscript").textContent;
    const copy = holder.content.querySelector("img");
    target.srcset = copy.srcset;
    target.src = copy.src;
  }
});
document.querySelectorAll("img[data-nimg=intrinsic]").forEach((image) => seen.observe(image));
