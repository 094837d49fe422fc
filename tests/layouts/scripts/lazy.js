// Moves the address of an image from a data attribute to src once it comes into view, and removes the attribute.
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    setTimeout(() => {
      target.src = target.getAttribute(C.source);
      target.removeAttribute(C.source);
    }, 60);
  }
});
document.querySelectorAll(`img[${C.source}]`).forEach((image) => seen.observe(image));
