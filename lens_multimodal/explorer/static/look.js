// One picture: its caption, the neurons behind a word, and what changing them does.

import { latest } from "./api.js";
import { Board } from "./board.js";
import { $, bar, difference, el, percent, readable, words } from "./dom.js";
import { NeuronTable } from "./neurons.js";

const PAUSE_MS = 120;

const WHERE = {
  image: `The paper’s ranking: the neurons that turn image patches into the word. It found them in the middle layers of a model
    of 6 billion parameters. In small models many of them lie in the first layer, and the words they write need not be about the
    picture.`,
  last: `The neurons active when the word is chosen (Pan et al. 2024). In small models as well, many of them write the word
    itself. They need not read the picture: they may fire before this word in any sentence.`,
};

export class Look {
  constructor(about) {
    this.board = new Board($("look-picture"), { empty: "no picture yet" });
    this.table = new NeuronTable({
      atlas: about.atlas,
      onpoint: (neuron) => this.#point(neuron),
      onchange: (factors) => this.#changeSoon(factors),
    });
    this.asking = { look: latest(), why: latest(), change: latest() };
    $("look-text").value = about.prompt;
    $("look-text").addEventListener("change", () => this.#look());
    $("neurons-count").addEventListener("change", () => this.#why({ afresh: false }));
    for (const radio of this.#radios) radio.addEventListener("change", () => this.#why({ afresh: true }));
    this.turn = { look: 0, why: 0 };
    for (const option of $("neurons-count").options) option.disabled = Number(option.value) > about.neurons;
  }

  get pictures() {
    return this.picture ? [this.picture] : [];
  }

  async take(picture, label) {
    this.picture = picture;
    this.label = label;
    await this.#look();
  }

  // Until the answer is here, words and neurons of the picture before cannot be clicked.
  async #look() {
    if (!this.picture) return;
    this.#dropChange();
    this.asking.why.drop();
    this.turn.why += 1;
    const mine = (this.turn.look += 1);
    const [picture, label, text] = [this.picture, this.label, $("look-text").value];
    this.#stale(true);
    const seen = await this.asking.look.post("/api/look", { picture, text });
    if (mine !== this.turn.look) return;
    this.#stale(false);
    if (!seen) return this.#lookAgain();
    this.seen = { ...seen, picture, label, text };
    this.index = null;
    this.board.show(picture, label, seen.positions);
    $("neurons").hidden = true;
    $("look-unfamiliar").hidden = !seen.unfamiliar;
    $("look-hint").hidden = !seen.caption.words.length;
    this.#caption();
  }

  // No answer: the picture before is still the one that is shown.
  #lookAgain() {
    this.picture = this.seen?.picture;
    this.label = this.seen?.label;
    this.table.keep();
    this.#loaded();
  }

  #stale(stale) {
    for (const id of ["look-caption", "neurons"]) {
      $(id).inert = stale;
      $(id).classList.toggle("stale", stale);
    }
  }

  #caption() {
    const onchoose = (index) => {
      this.index = index;
      this.#caption();
      this.#why({ afresh: true });
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

  // afresh: another word or place; otherwise more or fewer rows of the same list, and what was changed stays so.
  async #why({ afresh }) {
    if (this.index === null) return;
    this.#dropChange();
    const mine = (this.turn.why += 1);
    const asked = { ...this.#place, positions: this.#where, top_k: Number($("neurons-count").value) };
    this.table.expect({ afresh });
    $("look-word").classList.toggle("stale", afresh);
    $("neurons").setAttribute("aria-busy", "true");
    $("neurons-status").textContent = `ranking ${asked.top_k} neurons …`;
    const why = await this.asking.why.post("/api/why", asked);
    if (mine !== this.turn.why) return;
    this.#loaded();
    if (!why) return this.#whyAgain();
    this.why = why;
    this.asked = { ...asked, index: this.index };
    $("where-note").textContent = WHERE[asked.positions];
    const name = readable(why.word.text);
    $("why-title").replaceChildren("Why ", el("em", {}, name), "?");
    $("neurons-title").replaceChildren("The neurons behind ", el("em", {}, name));
    this.table.show(why.neurons, name, this.seen.positions.names);
    $("neurons").hidden = false;
    if (!this.table.factors.length) return this.#asItIs();
    this.#changeSoon(this.table.factors);
  }

  // No answer: the word and the rows before are still the ones that are shown.
  #whyAgain() {
    this.index = this.asked?.index ?? null;
    if (this.asked) {
      $("neurons-count").value = String(this.asked.top_k);
      for (const radio of this.#radios) radio.checked = radio.value === this.asked.positions;
    }
    this.#caption();
    this.table.keep();
    this.#changeSoon(this.table.factors);
  }

  #loaded() {
    $("neurons").removeAttribute("aria-busy");
    $("neurons-status").textContent = "";
    $("look-word").classList.remove("stale");
  }

  get #radios() {
    return [...document.querySelectorAll("input[name=where]")];
  }

  get #where() {
    return this.#radios.find((radio) => radio.checked).value;
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
    if (!factors.length) return this.why && this.#asItIs();
    this.timer = setTimeout(() => this.#change(factors), PAUSE_MS);
  }

  async #change(factors) {
    const { picture, text, before, target, positions } = this.asked;
    const changed = await this.asking.change.post("/api/change", { picture, text, before, target, positions, neurons: factors });
    if (!changed) return;
    const many = factors.length === 1 ? "1 neuron" : `${factors.length} neurons`;
    const unseen = this.table.notShown;
    $("neurons-status").textContent = unseen ? `${unseen} of the changed neurons are not among the rows shown` : "";
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
    this.board.point(neuron?.index ?? null);
  }
}
