// Small helpers for building the page. Text is always set as text, never as markup.

export const $ = (id) => document.getElementById(id);

// el("p", {class: "small", onclick: f}, "text", child)
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function percent(share) {
  if (share >= 0.9995) return "100 %";
  if (share >= 0.1) return `${(100 * share).toFixed(0)} %`;
  if (share >= 0.001) return `${(100 * share).toFixed(1)} %`;
  return share >= 0.00001 ? `${(100 * share).toFixed(3)} %` : "< 0.001 %";
}

// A number with its sign as it is printed.
export function signed(value) {
  return value.toFixed(2).replace("-", "−");
}

export function readable(word) {
  const text = word.trim();
  return text === "" ? JSON.stringify(word) : text;
}

// One labelled bar: a share from 0 to 1.
export function bar(label, share, kind) {
  return el(
    "div",
    { class: `bar ${kind}`, "data-share": share },
    el("span", { class: "bar-label" }, label),
    el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: "fill", style: { width: `${100 * share}%` } })),
    el("span", { class: "number" }, percent(share)),
  );
}

// A caption as buttons, one for each token.
export function words(caption, { before, chosen, onchoose }) {
  if (!caption.words.length) return [el("span", { class: "quiet" }, "(the model stopped immediately)")];
  return [
    el("span", { class: "quiet" }, before, " "),
    ...caption.words.map((word, index) =>
      el(
        "button",
        {
          type: "button",
          class: "word",
          "data-index": index,
          "aria-pressed": String(index === chosen),
          title: `token ${word.token_id}, probability ${percent(word.probability)}`,
          onclick: () => onchoose(index),
        },
        readable(word.text),
        el("span", { class: "chance", "aria-hidden": "true", style: { width: `${100 * word.probability}%` } }),
      ),
    ),
  ];
}

// The new caption, words that were not in the old one marked.
export function difference(now, was) {
  const old = was.words.map((word) => word.token_id);
  return now.words.map((word, index) =>
    el(old[index] === word.token_id ? "span" : "mark", {}, word.text),
  );
}
