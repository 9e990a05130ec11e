// The positions of an image: the picture once under each of its patch grids, then those that show no part of it.

import { el } from "./dom.js";

// cell(index, name, style) makes the element of one position.
export function sheets({ picture, label, positions, cell }) {
  const { grids, names, boxes } = positions;
  const several = grids.length > 1;
  const nodes = grids.map((grid) => {
    const shape = `${grid.grid_h} × ${grid.grid_w} grid`;
    const cells = boxed(grid, boxes).map((index) => cell(index, names[index], over(boxes[index])));
    const shown = el("img", { class: "shown", src: `/api/pictures/${picture}`, alt: label });
    const patches = group(several ? `Image patches, ${shape}` : "Image patches", cells);
    return el(
      "figure",
      { class: "sheet" },
      el("div", { class: "sheet-picture" }, shown, patches),
      several ? el("figcaption", {}, shape) : null,
    );
  });
  const apart = unboxed(boxes);
  if (apart.length) {
    const show = apart.length === 1 ? "1 position shows" : `${apart.length} positions show`;
    const cells = apart.map((index) => cell(index, `position ${index}: ${names[index]}`, {}));
    const note = el("p", { class: "small" }, `${show} no part of the picture`);
    nodes.push(el("div", { class: "apart" }, note, group("Positions that show no part of the picture", cells)));
  }
  return nodes;
}

// The position that an arrow key leads to from another one, among the patches of its grid; null at the edge.
export function neighbour({ grids, boxes }, from, key) {
  const grid = boxes[from] && grids.find((one) => one.indices.includes(from));
  const order = grid ? grid.indices : unboxed(boxes);
  const row = grid ? grid.grid_w : order.length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[key];
  if (!step) return null;
  let at = order.indexOf(from) + step;
  while (grid && at in order && !boxes[order[at]]) at += step;
  return order[at] ?? null;
}

const boxed = (grid, boxes) => grid.indices.filter((index) => boxes[index]);
const unboxed = (boxes) => boxes.flatMap((box, index) => (box ? [] : [index]));
const group = (name, cells) => el("div", { class: "cells", role: "group", "aria-label": name }, ...cells);

function over([left, top, width, height]) {
  return { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * width}%`, height: `${100 * height}%` };
}
