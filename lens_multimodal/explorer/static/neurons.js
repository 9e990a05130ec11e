// The table of neurons: tick to ablate, slide to scale, point to see where a neuron is active.

import { $, el, readable } from "./dom.js";

const SCALE = { min: 0, max: 4, step: 0.1 };

export class NeuronTable {
  // onpoint(neuron or null), onchange(factors)
  constructor({ onpoint, onchange }) {
    this.body = $("neurons-table").tBodies[0];
    this.onpoint = onpoint;
    this.onchange = onchange;
    this.rows = [];
    $("ablate-all").addEventListener("click", () => this.#all(0));
    $("reset").addEventListener("click", () => this.#all(1));
  }

  // word: the one asked about, marked among what the neurons write.
  show(neurons, word) {
    const most = Math.max(...neurons.map((neuron) => Math.abs(neuron.attribution)), 1e-9);
    this.rows = neurons.map((neuron) => this.#row(neuron, most, word));
    this.body.replaceChildren(...this.rows.map((row) => row.node));
  }

  // What differs from 1, as the server takes it.
  get factors() {
    return this.rows
      .filter((row) => row.factor !== 1)
      .map((row) => ({ layer: row.neuron.layer, neuron: row.neuron.neuron, factor: row.factor }));
  }

  #all(factor) {
    for (const row of this.rows) row.set(factor);
    this.onchange(this.factors);
  }

  #row(neuron, most, word) {
    const name = `layer ${neuron.layer}, neuron ${neuron.neuron}`;
    const tick = el("input", { type: "checkbox", "aria-label": `Ablate ${name}` });
    const slider = el("input", { type: "range", ...SCALE, value: 1, "aria-label": `Scale ${name}` });
    const output = el("output", { class: "number" }, "× 1");
    const row = { neuron, factor: 1 };
    row.set = (factor) => {
      row.factor = factor;
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
        "data-neuron": `${neuron.layer}.${neuron.neuron}`,
        onpointerenter: () => this.onpoint(neuron),
        onpointerleave: () => this.onpoint(null),
        onfocusin: () => this.onpoint(neuron),
        onfocusout: () => this.onpoint(null),
      },
      el("td", {}, tick),
      el("td", {}, el("img", { class: "thumb", src: neuron.field, alt: `Where ${name} is active`, width: 56, height: 56 })),
      el("th", { scope: "row" }, el("span", { class: "layer" }, `L${neuron.layer}`), ` ${neuron.neuron}`),
      el("td", { class: "writes" }, ...neuron.tokens.map((token) => written(token, word))),
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
      el("td", { class: "small" }, `row ${neuron.row}, col ${neuron.col}`),
      el("td", { class: "scale" }, slider, output),
    );
    return row;
  }
}

function written(token, word) {
  const text = readable(token);
  return el("code", { class: text.toLowerCase() === word.toLowerCase() ? "same" : null }, text);
}
