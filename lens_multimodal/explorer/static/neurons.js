// The table of neurons: tick to ablate, slide to scale, point to see where a neuron is active. What was changed stays changed
// until another word or another place is asked about, whichever rows are shown.

import { $, el, readable } from "./dom.js";

const SCALE = { min: 0, max: 4, step: 0.1 };

export class NeuronTable {
  // atlas: whether neurons come with what one says; onpoint(neuron or null), onchange(factors)
  constructor({ atlas, onpoint, onchange }) {
    $("neurons-atlas").hidden = !atlas;
    this.body = $("neurons-table").tBodies[0];
    this.onpoint = onpoint;
    this.onchange = onchange;
    this.rows = [];
    this.changed = new Map();
    this.shownNext = null;
    this.loading = false;
    $("ablate-all").addEventListener("click", () => this.#all(0));
    $("reset").addEventListener("click", () => this.#all(1));
  }

  // Another list is on its way. afresh: of another word or place, so nothing done to this one applies to it.
  expect({ afresh }) {
    this.loading = true;
    if (!afresh) return;
    this.changed.clear();
    this.shownNext = null;
    this.body.inert = true;
  }

  // No list came: what is shown still holds, and what was asked of the next list applies to it.
  keep() {
    this.#settle();
  }

  // word: the one asked about, marked among what the neurons write; names: what each image position shows.
  show(neurons, word, names) {
    const most = Math.max(...neurons.map((neuron) => Math.abs(neuron.attribution)), 1e-9);
    this.rows = neurons.map((neuron) => this.#row(neuron, most, word, names));
    this.body.replaceChildren(...this.rows.map((row) => row.node));
    for (const row of this.rows) row.set(this.changed.get(row.key)?.factor ?? 1);
    this.#settle();
  }

  // What differs from 1, as the server takes it, shown or not.
  get factors() {
    return [...this.changed.values()];
  }

  get notShown() {
    const shown = new Set(this.rows.map((row) => row.key));
    return [...this.changed.keys()].filter((key) => !shown.has(key)).length;
  }

  #settle() {
    this.loading = false;
    this.body.inert = false;
    if (this.shownNext === null) return;
    for (const row of this.rows) row.set(this.shownNext);
    this.shownNext = null;
  }

  // While a list loads, a button means the rows that it will show.
  #all(factor) {
    if (factor === 1) this.changed.clear();
    if (this.loading) this.shownNext = factor;
    if (!this.loading || factor === 1) for (const row of this.rows) row.set(factor);
    if (!this.loading) this.onchange(this.factors);
  }

  #row(neuron, most, word, names) {
    const name = `layer ${neuron.layer}, neuron ${neuron.neuron}`;
    const tick = el("input", { type: "checkbox", "aria-label": `Ablate ${name}` });
    const slider = el("input", { type: "range", ...SCALE, value: 1, "aria-label": `Scale ${name}` });
    const output = el("output", { class: "number" }, "× 1");
    const row = { neuron, key: `${neuron.layer}.${neuron.neuron}` };
    row.set = (factor) => {
      if (factor === 1) this.changed.delete(row.key);
      else this.changed.set(row.key, { layer: neuron.layer, neuron: neuron.neuron, factor });
      tick.checked = factor === 0;
      slider.value = factor;
      output.textContent = `× ${factor}`;
      row.node.classList.toggle("edited", factor !== 1);
    };
    const change = (factor) => {
      row.set(factor);
      this.onchange(this.factors);
    };
    tick.addEventListener("change", () => change(tick.checked ? 0 : 1));
    slider.addEventListener("input", () => change(Number(slider.value)));
    row.node = el(
      "tr",
      {
        "data-neuron": row.key,
        onpointerenter: () => this.onpoint(neuron),
        onpointerleave: () => this.onpoint(null),
        onfocusin: () => this.onpoint(neuron),
        onfocusout: () => this.onpoint(null),
      },
      el("td", { class: "tick" }, tick),
      el("td", { class: "picture" }, el("img", { class: "thumb", src: neuron.field, alt: `Where ${name} is active`, width: 56, height: 56 })),
      el("th", { scope: "row" }, el("span", { class: "layer" }, `L${neuron.layer}`), ` ${neuron.neuron}`),
      el("td", { class: "writes" }, ...neuron.tokens.map((token) => written(token, word)), inAtlas(neuron.atlas, name)),
      el(
        "td",
        { class: "attribution" },
        el("span", { class: "number" }, neuron.attribution.toFixed(3)),
        el(
          "span",
          { class: "track", "aria-hidden": "true" },
          el("span", {
            class: neuron.attribution < 0 ? "fill negative" : "fill",
            style: { width: `${(100 * Math.abs(neuron.attribution)) / most}%` },
          }),
        ),
      ),
      el("td", { class: "small place" }, neuron.index === null ? "last position" : names[neuron.index]),
      el("td", { class: "scale" }, slider, output),
    );
    return row;
  }
}

// known: what the atlas says, null without one and for a layer that it does not cover.
function inAtlas(known, name) {
  if (!known) return null;
  const overlap = known.category === null ? "" : `${known.category}, IoU ${known.iou.toFixed(3)}, p ${known.p.toFixed(3)}`;
  return el(
    "div",
    { class: "in-atlas small" },
    ...known.pictures.map((src, rank) =>
      el("img", { src, alt: `Picture ${rank + 1} that drives ${name}`, width: 32, height: 32, loading: "lazy" }),
    ),
    known.page ? el("a", { href: known.page, target: "_blank", rel: "noopener", "aria-label": `Page of ${name}` }, "page") : null,
    overlap,
  );
}

function written(token, word) {
  const text = readable(token);
  return el("code", { class: text.toLowerCase() === word.toLowerCase() ? "same" : null }, text);
}
