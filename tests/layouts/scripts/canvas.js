// Draws each canvas from its image.
for (const canvas of document.querySelectorAll(`canvas[${C.source}]`)) {
  const image = new Image();
  image.onload = () => canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  image.src = canvas.getAttribute(C.source);
}
