// Searches the columns of neurons.js and shows the first hits; text is set as text, never as markup.
const MOST = 100;
const query = document.getElementById("query");
const layer = document.getElementById("layer");
const highest = document.getElementById("p");
const found = document.getElementById("found");
const count = document.getElementById("count");
const haystack = NEURONS.words.map((words, i) => (" " + words + " " + NEURONS.category[i] + " ").toLowerCase());

function matches(i, wanted, name) {
  if (layer.value !== "" && NEURONS.layer[i] !== Number(layer.value)) return false;
  if (NEURONS.p[i] !== null && NEURONS.p[i] > Number(highest.value)) return false;
  if (name) return NEURONS.layer[i] === name[0] && NEURONS.neuron[i] === name[1];
  return haystack[i].includes(wanted);
}

function cell(row, text, number) {
  const made = row.insertCell();
  if (number) made.className = "num";
  made.textContent = text;
  return made;
}

function show() {
  const wanted = query.value.trim().toLowerCase();
  const given = wanted.match(/^l(\d+)\s*n(\d+)$/);
  const name = given && [Number(given[1]), Number(given[2])];
  found.replaceChildren();
  let hits = 0;
  for (let i = 0; i < NEURONS.layer.length; i++) {
    if (!matches(i, wanted, name)) continue;
    if (hits++ >= MOST) continue;
    const row = found.insertRow();
    const link = document.createElement("a");
    link.textContent = `L${NEURONS.layer[i]} N${NEURONS.neuron[i]}`;
    link.href = `neuron/L${NEURONS.layer[i]}N${NEURONS.neuron[i]}.html`;
    row.insertCell().append(link);
    cell(row, NEURONS.category[i]);
    cell(row, NEURONS.iou[i] === null ? "–" : NEURONS.iou[i].toFixed(3), true);
    cell(row, NEURONS.p[i] === null ? "–" : NEURONS.p[i].toFixed(4), true);
    cell(row, NEURONS.words[i]);
  }
  count.textContent = `${hits} found` + (hits > MOST ? `, the first ${MOST} shown` : "");
  history.replaceState(null, "", wanted ? "#" + encodeURIComponent(wanted) : location.pathname + location.search);
}

function fromAddress() {
  query.value = decodeURIComponent(location.hash.slice(1));
  show();
}

for (const input of [query, layer, highest]) input.addEventListener("input", show);
addEventListener("hashchange", fromAddress);
fromAddress();
