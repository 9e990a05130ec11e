// Starts the page: tabs, theme, and which part a chosen picture goes to.

import { get } from "./api.js";
import { Between } from "./between.js";
import { $ } from "./dom.js";
import { Look } from "./look.js";
import { gallery, markChosen } from "./pictures.js";

const TABS = ["look", "between"];
const THEMES = { automatic: "", light: "light", dark: "dark" };

function theme() {
  const names = Object.keys(THEMES);
  const kept = localStorage.getItem("theme");
  const apply = (name) => {
    document.documentElement.dataset.theme = THEMES[name];
    localStorage.setItem("theme", name);
    $("theme").textContent = `Theme: ${name}`;
  };
  let current = names.includes(kept) ? kept : "automatic";
  apply(current);
  $("theme").addEventListener("click", () => {
    current = names[(names.indexOf(current) + 1) % names.length];
    apply(current);
  });
}

function tabs(onchange) {
  const select = (name) => {
    for (const tab of TABS) {
      $(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
      $(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
      $(tab).hidden = tab !== name;
    }
    onchange(name);
  };
  for (const tab of TABS) {
    $(`tab-${tab}`).addEventListener("click", () => select(tab));
    $(`tab-${tab}`).addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = TABS[(TABS.indexOf(tab) + 1) % TABS.length];
      select(other);
      $(`tab-${other}`).focus();
    });
  }
}

function describe(about) {
  $("about").textContent =
    `${about.name}: ${about.n_layers} layers of ${about.d_mlp.toLocaleString("en")} MLP neurons; ` +
    `${about.vision}; ${about.weight_processing === "none" ? "weights as trained" : `weights: ${about.weight_processing}`}`;
}

async function start() {
  theme();
  const about = await get("/api/about");
  if (!about) return;
  describe(about);
  let part = "look";
  const mark = () => parts && markChosen(parts[part].pictures);
  let parts = null;
  parts = { look: new Look(about), between: new Between(about, { onslots: () => mark() }) };
  tabs((name) => {
    part = name;
    mark();
  });
  $("find").addEventListener("input", () => setTimeout(mark));
  const choose = async (id, label) => {
    const taken = parts[part].take(id, label);
    mark();
    await taken;
    mark();
  };
  const samples = await gallery({ uploadBytes: about.upload_bytes, onchoose: choose });
  if (samples.length) choose(samples[0].id, samples[0].label);
}

start();
