// One picture: its caption, the neurons behind a word, and what changing them does.

import { latest } from "./api.js";
import { Board } from "./board.js";
import { $, bar, difference, el, percent, readable, words } from "./dom.js";
import { NeuronTable } from "./neurons.js";

const PAUSE_MS = 120;

export class Look {
  constructor(about) {
    this.board = new Board($("look-picture"), { empty: "no picture yet" });
    this.table = new NeuronTable({
      onpoint: (neuron) => this.#point(neuron),
      onchange: (factors) => this.#changeSoon(factors),
    });
    this.asking = { look: latest(), why: latest(), change: latest() };
    $("look-text").value = about.prompt;
    $("look-text").addEventListener("change", () => this.#look());
    $("neurons-count").addEventListener("change", () => this.#why());
    for (const option of $("neurons-count").options) option.disabled = Number(option.value) > about.neurons;
  }

  get pictures() {
    return this.picture ? [this.picture] : [];
  }

  take(picture, label) {
    this.picture = picture;
    this.label = label;
    this.#look();
  }

  async #look() {
    if (!this.picture) return;
    this.#dropChange();
    this.asking.why.drop();
    const [picture, text] = [this.picture, $("look-text").value];
    const seen = await this.asking.look.post("/api/look", { picture, text });
    if (!seen) return;
    this.seen = { ...seen, picture, text };
    this.index = null;
    this.board.show(picture, this.label, seen.patches);
    $("neurons").hidden = true;
    $("look-hint").hidden = !seen.caption.words.length;
    this.#caption();
  }

  #caption() {
    const onchoose = (index) => {
      this.index = index;
      this.#caption();
      this.#why();
    };
    $("look-caption").replaceChildren(
      ...words(this.seen.caption, { before: this.seen.text, chosen: this.index, onchoose }),
    );
    if (this.index !== null) $("look-caption").querySelector(`[data-index="${this.index}"]`)?.focus();
  }

  // The word asked about and where it stands, as the server takes it.
  get #place() {
    const ids = this.seen.caption.words.map((word) => word.token_id);
    const { picture, text } = this.seen;
    return { picture, text, before: ids.slice(0, this.index), target: ids[this.index] };
  }

  async #why() {
    if (this.index === null) return;
    this.#dropChange();
    const why = await this.asking.why.post("/api/why", { ...this.#place, top_k: Number($("neurons-count").value) });
    if (!why) return;
    this.why = why;
    const name = readable(why.word.text);
    $("why-title").replaceChildren("Why ", el("em", {}, name), "?");
    $("neurons-title").replaceChildren("The neurons behind ", el("em", {}, name));
    this.table.show(why.neurons, name);
    this.#asItIs();
    $("neurons").hidden = false;
  }

  #asItIs() {
    $("why-bars").replaceChildren(bar("unchanged", this.why.word.probability, "before"));
    $("why-caption").replaceChildren(
      el("span", { class: "quiet" }, `says: ${this.seen.text}`),
      ...difference(this.seen.caption, this.seen.caption),
    );
    this.#likeliest(this.why.likeliest);
  }

  #likeliest(likely) {
    $("why-likeliest").textContent =
      "Most likely here: " + likely.map((word) => `${readable(word.text)} ${percent(word.probability)}`).join(", ");
  }

  #dropChange() {
    clearTimeout(this.timer);
    this.asking.change.drop();
  }

  #changeSoon(factors) {
    this.#dropChange();
    if (!factors.length) return this.#asItIs();
    this.timer = setTimeout(() => this.#change(factors), PAUSE_MS);
  }

  async #change(factors) {
    const changed = await this.asking.change.post("/api/change", { ...this.#place, neurons: factors });
    if (!changed) return;
    const many = factors.length === 1 ? "1 neuron" : `${factors.length} neurons`;
    $("why-bars").replaceChildren(
      bar("unchanged", changed.before.probability, "before"),
      bar(`${many} changed`, changed.after.probability, "after"),
      changed.random
        ? bar("random neurons instead", changed.random.probability, "random")
        : el("p", { class: "small" }, "These layers have too few other neurons for a random control."),
    );
    const same = changed.caption.text === this.seen.caption.text;
    $("why-caption").replaceChildren(
      el("span", { class: "quiet" }, same ? "still says: " : "now says: "),
      el("span", { class: "quiet" }, this.seen.text),
      ...difference(changed.caption, this.seen.caption),
    );
    this.#likeliest(changed.likeliest);
  }

  #point(neuron) {
    this.board.cover(neuron?.field ?? null);
    this.board.point(neuron ? neuron.row * this.seen.patches.grid_w + neuron.col : -1);
  }
}
