// Two pictures: activation patching of image patches from A into B.

import { latest, post } from "./api.js";
import { Board } from "./board.js";
import { $, bar, difference, el, readable, signed, words } from "./dom.js";
import { sheets } from "./positions.js";

const PAUSE_MS = 150;

export class Between {
  // onslots() is called when the next picture goes to another slot.
  constructor(about, { onslots }) {
    this.about = about;
    this.onslots = onslots;
    this.slots = { a: this.#slot("a", "Picture A gives"), b: this.#slot("b", "Picture B receives") };
    this.next = "a";
    this.asking = { a: latest(), b: latest(), patch: latest() };
    for (const id of ["layer-first", "layer-last"]) {
      $(id).append(...Array.from({ length: about.n_layers }, (_, layer) => el("option", {}, String(layer))));
      $(id).addEventListener("change", () => this.#layersChanged(id));
    }
    $("layer-last").value = String(about.n_layers - 1);
    $("patch-all").addEventListener("click", () => this.#choose(this.#all));
    $("patch-none").addEventListener("click", () => this.#choose([]));
    $("sweep").addEventListener("click", () => this.#sweep());
    this.#markNext();
  }

  get pictures() {
    return Object.values(this.slots).flatMap((slot) => (slot.picture ? [slot.picture] : []));
  }

  // A picture goes to the slot whose turn it is.
  async take(picture, label) {
    const name = this.next;
    const slot = this.slots[name];
    slot.picture = picture;
    this.next = name === "a" ? "b" : "a";
    this.#markNext();
    this.#stopSweep();
    const seen = await this.asking[name].post("/api/look", { picture, text: this.about.prompt });
    if (!seen) return;
    slot.seen = seen;
    slot.board.show(picture, label, seen.positions);
    slot.says.textContent = label;
    if (name === "a") this.index = this.#firstGuess(seen.caption);
    this.#captions();
    $("patch-bars").replaceChildren();
    $("patch-caption").replaceChildren();
    const both = Boolean(this.slots.a.seen && this.slots.b.seen);
    $("patching").hidden = $("sweeping").hidden = !both;
    if (both) this.#choose(this.#all);
  }

  #slot(name, title) {
    const pick = el("button", { type: "button", class: "pick", "aria-pressed": "false", onclick: () => this.#turn(name) });
    const says = el("p", { class: "small" }, "");
    const caption = el("p", { class: "caption" }, el("span", { class: "quiet" }, "Choose a picture first."));
    const place = el("div", {});
    pick.append(title);
    $(`slot-${name}`).append(pick, place, says, caption);
    const board = new Board(place, { empty: "no picture yet", onchoose: (patches) => this.#choose(patches) });
    return { pick, board, says, caption, picture: null, seen: null };
  }

  #turn(name) {
    this.next = name;
    this.#markNext();
  }

  #markNext() {
    for (const [name, slot] of Object.entries(this.slots)) {
      const turn = name === this.next;
      slot.pick.setAttribute("aria-pressed", String(turn));
      $(`slot-${name}`).classList.toggle("turn", turn);
    }
    this.onslots();
  }

  // The longest word is most often the noun.
  #firstGuess(caption) {
    const lengths = caption.words.map((word) => word.text.trim().length);
    return Math.max(lengths.indexOf(Math.max(...lengths)), 0);
  }

  #captions() {
    const { a, b } = this.slots;
    const onchoose = (index) => {
      this.index = index;
      this.#captions();
      this.#stopSweep();
      this.#patchSoon();
    };
    if (a.seen) {
      a.caption.replaceChildren(...words(a.seen.caption, { before: this.about.prompt, chosen: this.index, onchoose }));
    }
    if (b.seen) {
      b.caption.replaceChildren(
        el("span", { class: "quiet" }, this.about.prompt),
        ...b.seen.caption.words.map((word) => el("span", {}, word.text)),
      );
    }
  }

  // The word and the two pictures, as the server takes them; null as long as something is missing.
  get #question() {
    const { a, b } = this.slots;
    if (!a.seen || !b.seen || !a.seen.caption.words.length) return null;
    const ids = a.seen.caption.words.map((word) => word.token_id);
    return {
      clean: a.picture,
      corrupted: b.picture,
      text: this.about.prompt,
      before: ids.slice(0, this.index),
      target: ids[this.index],
    };
  }

  // Every image position of picture B.
  get #all() {
    return (this.slots.b.seen?.positions.names ?? []).map((_, index) => index);
  }

  get #layers() {
    const [first, last] = [Number($("layer-first").value), Number($("layer-last").value)];
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  }

  #layersChanged(id) {
    const [first, last] = [$("layer-first"), $("layer-last")];
    if (Number(first.value) > Number(last.value)) (id === "layer-first" ? last : first).value = $(id).value;
    this.#patchSoon();
  }

  #choose(patches) {
    this.patches = patches;
    for (const slot of Object.values(this.slots)) slot.board.choose(patches);
    $("patch-count").textContent = `${patches.length} of ${this.#all.length} image positions`;
    this.#patchSoon();
  }

  #patchSoon() {
    clearTimeout(this.timer);
    this.asking.patch.drop();
    this.timer = setTimeout(() => this.#patch(), PAUSE_MS);
  }

  async #patch() {
    const question = this.#question;
    if (!question) return;
    if (!this.patches.length) {
      $("patch-bars").replaceChildren();
      $("patch-caption").replaceChildren(el("span", { class: "quiet" }, "Choose image positions to copy."));
      return;
    }
    const patched = await this.asking.patch.post("/api/patch", {
      ...question,
      layers: this.#layers,
      patches: this.patches,
    });
    if (patched) this.#show(patched);
  }

  #show(patched) {
    $("patch-caption").replaceChildren(
      el("span", { class: "quiet" }, this.about.prompt),
      ...difference(patched.caption, this.slots.b.seen.caption),
    );
    const group = (word, whose) =>
      el(
        "div",
        { class: "group", "data-word": word.text },
        el("h3", {}, el("em", {}, readable(word.text)), ` ${whose}`),
        bar("picture A", word.clean, "random"),
        bar("picture B", word.corrupted, "before"),
        bar("B, patched", word.patched, "after"),
      );
    const groups = [group(patched.word, "in A’s caption")];
    if (patched.other.token_id !== patched.word.token_id) groups.push(group(patched.other, "is B’s likeliest there"));
    $("patch-bars").replaceChildren(...groups);
  }

  #stopSweep() {
    this.sweeping?.abort();
    this.sweeping = null;
    $("sweep-maps").replaceChildren();
    $("sweep-note").textContent = "Every image position is copied alone, into one layer at a time.";
  }

  // One question for each layer, so that the maps fill one by one.
  async #sweep() {
    this.#stopSweep();
    const question = this.#question;
    if (!question) return;
    const mine = (this.sweeping = new AbortController());
    const swept = [];
    for (const layer of this.#layers) {
      const answer = await post("/api/sweep", { ...question, layer }, mine.signal);
      if (!answer || mine.signal.aborted) return;
      swept.push(answer);
      this.#maps(swept);
    }
  }

  #maps(swept) {
    const most = Math.max(...swept.flatMap((one) => one.effect.map(Math.abs)), 1e-9);
    const { label, clean, corrupted } = swept[0];
    $("sweep-note").replaceChildren(
      `Change of the ${label} when one image position of A is copied into B (A has ${signed(clean)}, B ${signed(corrupted)}):`,
      el(
        "span",
        { class: "legend" },
        el("span", { class: "number" }, `−${most.toFixed(2)}`),
        el("span", { class: "ramp", role: "img", "aria-label": "from blue (below zero) through transparent (zero) to orange (above zero)" }),
        el("span", { class: "number" }, `+${most.toFixed(2)}`),
      ),
    );
    $("sweep-maps").replaceChildren(...swept.map((one) => this.#map(one, most)));
  }

  #map({ layer, effect }, most) {
    const { picture, seen } = this.slots.b;
    const cell = (index, name, style) =>
      el("span", {
        class: `heat ${effect[index] < 0 ? "lower" : "higher"}`,
        title: `${name}: ${effect[index].toFixed(3)}`,
        "data-effect": effect[index],
        style: { ...style, opacity: String(Math.abs(effect[index]) / most) },
      });
    const best = effect.indexOf(Math.max(...effect));
    const spoken = `layer ${layer}: largest at ${seen.positions.names[best]}, ${effect[best].toFixed(3)}`;
    return el(
      "figure",
      { class: "map", "data-layer": layer },
      el(
        "div",
        { class: "map-sheets", role: "img", "aria-label": spoken },
        ...sheets({ picture, label: "", positions: seen.positions, cell }),
      ),
      el("figcaption", {}, `layer ${layer}`),
    );
  }
}
