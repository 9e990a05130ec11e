// The gallery of sample scenes, and uploads.

import { get, showError, upload } from "./api.js";
import { $, el } from "./dom.js";

const AT_FIRST = 60;
const KINDS = ["image/png", "image/jpeg", "image/webp"];

// onchoose(id, label) is called for a sample that is clicked and for every upload.
export async function gallery({ uploadBytes, onchoose }) {
  const samples = (await get("/api/samples")) ?? [];

  function draw() {
    const wanted = $("find").value.toLowerCase().replace("-", "_").split(/[\s,]+/).filter(Boolean);
    const found = samples.filter((sample) =>
      wanted.every((part) => `${sample.label} ${sample.drawings}`.toLowerCase().includes(part)),
    );
    const shown = found.slice(0, AT_FIRST);
    $("gallery").replaceChildren(...shown.map((sample) => thumbnail(sample, onchoose)));
    const rest = found.length > shown.length ? `: the first ${shown.length} are shown; use the filter to find others` : "";
    $("count").textContent = `${found.length} of ${samples.length} scenes${rest}`;
  }

  async function take(file) {
    if (!file) return;
    if (!KINDS.includes(file.type)) return showError(`${file.name} is not a PNG, JPEG or WebP picture.`);
    if (file.size > uploadBytes) return showError(`${file.name} is larger than ${Math.floor(uploadBytes / 2 ** 20)} MiB.`);
    const held = await upload(file);
    if (held) onchoose(held.id, file.name);
  }

  $("find").addEventListener("input", draw);
  $("file").addEventListener("change", (event) => {
    take(event.target.files[0]);
    event.target.value = "";
  });
  const stop = (event) => event.preventDefault();
  addEventListener("dragover", stop);
  addEventListener("drop", (event) => {
    stop(event);
    $("drop").classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  addEventListener("dragenter", () => $("drop").classList.add("over"));
  addEventListener("dragleave", (event) => event.relatedTarget || $("drop").classList.remove("over"));
  draw();
  return samples;
}

export function markChosen(ids) {
  for (const button of $("gallery").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(ids.includes(button.dataset.picture)));
  }
}

function thumbnail(sample, onchoose) {
  const held = sample.drawings === "held_out";
  return el(
    "li",
    {},
    el(
      "button",
      {
        type: "button",
        "data-picture": sample.id,
        "aria-pressed": "false",
        title: held ? `${sample.label} (a drawing that was held out of the encoder's training)` : sample.label,
        onclick: () => onchoose(sample.id, sample.label),
      },
      el("img", { src: `/api/pictures/${sample.id}`, alt: "", loading: "lazy", width: 72, height: 72 }),
      el("span", {}, sample.label),
    ),
  );
}
