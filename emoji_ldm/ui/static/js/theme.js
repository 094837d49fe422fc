// A classic script in the head: the theme is known before the first paint, so that nothing flashes.
(() => {
  const chosen = localStorage.getItem('studio.theme');
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  document.documentElement.dataset.theme = chosen ?? (dark ? 'dark' : 'light');
})();
