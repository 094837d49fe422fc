// Custom elements with open shadow roots: a grid that holds tiles, whose titles are slotted text.
class Tile extends HTMLElement {
  connectedCallback() {
    const root = this.attachShadow({ mode: "open" });
    root.append(nodeOf({ best: this.getAttribute("src"), title: this.textContent }, C.inside));
  }
}
class Grid extends HTMLElement {
  connectedCallback() {
    const root = this.attachShadow({ mode: "open" }), section = document.createElement("section");
    section.style.cssText = "display:flex;flex-wrap:wrap;gap:10px";
    root.append(section);
    for (const item of JSON.parse(this.getAttribute("items"))) {
      const tile = document.createElement("emoji-tile");
      tile.setAttribute("src", item.best);
      tile.textContent = item.title;
      section.append(tile);
    }
    this.removeAttribute("items");
  }
}
customElements.define("emoji-tile", Tile);
setTimeout(() => customElements.define("emoji-grid", Grid), 300);
