// A picture with its patch grid: patches can be pointed at, chosen, or covered by a neuron's activation.

import { el } from "./dom.js";

export class Board {
  // onchoose(patches) makes the patches choosable.
  constructor(place, { empty, onchoose } = {}) {
    this.onchoose = onchoose;
    this.chosen = new Set();
    this.cells = [];
    this.image = el("img", { class: "shown", alt: "", hidden: true });
    this.field = el("img", { class: "field", alt: "", hidden: true });
    this.grid = el("div", { class: "cells", role: "group", "aria-label": "Image patches" });
    this.note = el("span", { class: "quiet" }, empty ?? "");
    place.append(el("div", { class: "board" }, this.image, this.field, this.grid, this.note));
    this.grid.addEventListener("keydown", (event) => this.#move(event));
    this.grid.addEventListener("pointerdown", (event) => this.#drag(event));
  }

  show(picture, label, patches) {
    this.image.src = `/api/pictures/${picture}`;
    this.image.alt = label;
    this.image.hidden = false;
    this.note.hidden = true;
    this.cover(null);
    this.patches = patches;
    this.chosen = new Set();
    this.cells = patches.boxes.map((box, index) => this.#cell(box, index));
    this.grid.replaceChildren(...this.cells);
    if (this.cells.length && this.onchoose) this.cells[0].tabIndex = 0;
  }

  // A neuron's activation over the picture, or null for the picture alone.
  cover(field) {
    this.field.hidden = !field;
    if (field) this.field.src = field;
  }

  point(index) {
    this.cells.forEach((cell, i) => cell.classList.toggle("pointed", i === index));
  }

  choose(patches) {
    this.chosen = new Set(patches);
    this.cells.forEach((cell, i) => {
      cell.classList.toggle("chosen", this.chosen.has(i));
      if (this.onchoose) cell.setAttribute("aria-pressed", String(this.chosen.has(i)));
    });
  }

  #cell([left, top, width, height], index) {
    const place = `row ${Math.floor(index / this.patches.grid_w)}, column ${index % this.patches.grid_w}`;
    const style = { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * width}%`, height: `${100 * height}%` };
    if (!this.onchoose) return el("div", { class: "cell", style, title: place });
    return el("button", {
      class: "cell",
      type: "button",
      style,
      title: place,
      "aria-label": place,
      "aria-pressed": "false",
      tabindex: "-1",
      "data-patch": index,
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

  // Press on a patch and move over others: all become what the first one became.
  #drag(event) {
    const start = event.target.closest("[data-patch]");
    if (!start || event.button !== 0) return;
    event.preventDefault();
    start.focus();
    const wanted = !this.chosen.has(Number(start.dataset.patch));
    this.#toggle(Number(start.dataset.patch), wanted);
    const over = (moved) => {
      const cell = document.elementFromPoint(moved.clientX, moved.clientY)?.closest("[data-patch]");
      if (cell && this.grid.contains(cell)) this.#toggle(Number(cell.dataset.patch), wanted);
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
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.patches?.grid_w, ArrowDown: this.patches?.grid_w };
    const from = this.cells.indexOf(document.activeElement);
    const to = from + steps[event.key];
    if (from < 0 || !(to >= 0 && to < this.cells.length)) return;
    event.preventDefault();
    this.cells[from].tabIndex = -1;
    this.cells[to].tabIndex = 0;
    this.cells[to].focus();
  }
}
