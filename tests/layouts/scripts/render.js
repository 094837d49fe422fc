// The part that all scripts of the corpus share: templates with {{fields}}, as naming and markup are the server's.
const C = JSON.parse(document.getElementById("state").textContent || "{}");
const escape_ = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const fill = (template, item) => template.replace(/\{\{(\w+)\}\}/g, (_, key) => escape_(item[key] ?? ""));
const nodeOf = (item, template = C.template) => {
  const holder = document.createElement("template");
  holder.innerHTML = fill(template, item).trim();
  return holder.content.firstElementChild;
};
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const getJSON = (url, options) => fetch(url, options).then((answer) => answer.json());
const grid = () => document.querySelector(C.grid);
