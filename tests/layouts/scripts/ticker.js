// Never rests: a counter, an animated style and a poll that is always open.
let online = 100;
setInterval(() => {
  online += Math.round(Math.random() * 4 - 2);
  document.getElementById("ticker").textContent = `${online} online`;
  document.getElementById("ticker").style.opacity = 0.5 + Math.random() / 2;
}, 120);
const poll = () => getJSON("/live").then(poll, () => setTimeout(poll, 1000));
poll();
