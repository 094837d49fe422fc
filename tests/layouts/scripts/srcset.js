// Fills src and srcset of images that come into view (lazysizes); the data attributes stay.
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    if (target.dataset.srcset) target.srcset = target.dataset.srcset;
    if (target.dataset.src) target.src = target.dataset.src;
  }
}, { rootMargin: "200px" });
document.querySelectorAll("img[data-srcset], img[data-src]").forEach((image) => near.observe(image));
