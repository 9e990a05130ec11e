// A picture with its positions: they can be pointed at, chosen, or covered by a neuron's activation.

import { el } from "./dom.js";
import { neighbour, sheets } from "./positions.js";

export class Board {
  // onchoose(indices) makes the positions choosable.
  constructor(place, { empty, onchoose } = {}) {
    this.onchoose = onchoose;
    this.chosen = new Set();
    this.cells = [];
    this.fields = [];
    this.node = el("div", { class: "board" }, el("span", { class: "quiet" }, empty ?? ""));
    place.append(this.node);
    this.node.addEventListener("keydown", (event) => this.#move(event));
    this.node.addEventListener("pointerdown", (event) => this.#drag(event));
  }

  show(picture, label, positions) {
    this.positions = positions;
    this.chosen = new Set();
    this.cells = [];
    const cell = (index, name, style) => (this.cells[index] = this.#cell(index, name, style));
    this.node.replaceChildren(...sheets({ picture, label, positions, cell }));
    this.fields = [...this.node.querySelectorAll(".shown")].map((shown) => {
      const field = el("img", { class: "field", alt: "", hidden: true });
      shown.after(field);
      return field;
    });
    if (!this.onchoose) return;
    for (const group of this.node.querySelectorAll(".cells")) if (group.firstChild) group.firstChild.tabIndex = 0;
  }

  // A neuron's activation over the picture, or null for the picture alone.
  cover(field) {
    for (const own of this.fields) {
      own.hidden = !field;
      if (field) own.src = field;
    }
  }

  // index: null for none
  point(index) {
    this.cells.forEach((cell, i) => cell.classList.toggle("pointed", i === index));
  }

  choose(indices) {
    this.chosen = new Set(indices);
    this.cells.forEach((cell, i) => {
      cell.classList.toggle("chosen", this.chosen.has(i));
      if (this.onchoose) cell.setAttribute("aria-pressed", String(this.chosen.has(i)));
    });
  }

  #cell(index, name, style) {
    if (!this.onchoose) return el("div", { class: "cell", style, title: name });
    return el("button", {
      class: "cell",
      type: "button",
      style,
      title: name,
      "aria-label": name,
      "aria-pressed": "false",
      tabindex: "-1",
      "data-position": index,
      onclick: (event) => event.detail === 0 && this.#toggle(index),
    });
  }

  #toggle(index, wanted = !this.chosen.has(index)) {
    if (wanted === this.chosen.has(index)) return;
    if (wanted) this.chosen.add(index);
    else this.chosen.delete(index);
    this.choose(this.chosen);
    this.onchoose([...this.chosen].sort((a, b) => a - b));
  }

  // Press on a position and move over others: all become what the first one became.
  #drag(event) {
    const start = event.target.closest("[data-position]");
    if (!start || event.button !== 0) return;
    event.preventDefault();
    start.focus();
    const wanted = !this.chosen.has(Number(start.dataset.position));
    this.#toggle(Number(start.dataset.position), wanted);
    const over = (moved) => {
      const cell = document.elementFromPoint(moved.clientX, moved.clientY)?.closest("[data-position]");
      if (cell && this.node.contains(cell)) this.#toggle(Number(cell.dataset.position), wanted);
    };
    const end = () => {
      removeEventListener("pointermove", over);
      removeEventListener("pointerup", end);
      removeEventListener("pointercancel", end);
    };
    addEventListener("pointermove", over);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
  }

  #move(event) {
    const from = this.cells.indexOf(document.activeElement);
    const to = from < 0 ? null : neighbour(this.positions, from, event.key);
    if (to === null) return;
    event.preventDefault();
    this.cells[from].tabIndex = -1;
    this.cells[to].tabIndex = 0;
    this.cells[to].focus();
  }
}
