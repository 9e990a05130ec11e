// Questions to the server. Every failure is one line, shown at the top of the page.

import { $ } from "./dom.js";

const token = document.querySelector("meta[name=explorer-token]").content;
let waiting = 0;

export const get = (path) => ask(path, {});

export const post = (path, question, signal) =>
  ask(path, {
    method: "POST",
    headers: { "content-type": "application/json", "x-explorer-token": token },
    body: JSON.stringify(question),
    signal,
  });

export const upload = (file) =>
  ask("/api/pictures", {
    method: "POST",
    headers: { "content-type": file.type || "application/octet-stream", "x-explorer-token": token },
    body: file,
  });

// Only the latest question of each kind counts: an earlier one still under way is dropped.
export function latest() {
  let controller = null;
  return {
    drop() {
      controller?.abort();
    },
    async post(path, question) {
      controller?.abort();
      controller = new AbortController();
      const mine = controller;
      const answer = await post(path, question, mine.signal);
      return mine.signal.aborted ? null : answer;
    },
  };
}

export function showError(line) {
  $("error").textContent = line;
  $("error").hidden = !line;
}

async function ask(path, options) {
  busy(+1);
  try {
    const response = await fetch(path, options);
    const answer = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
    if (!response.ok) throw new Error(answer.error);
    showError("");
    return answer;
  } catch (error) {
    if (error.name === "AbortError") return null;
    showError(error instanceof TypeError ? "The explorer does not respond: is it still running?" : error.message);
    return null;
  } finally {
    busy(-1);
  }
}

function busy(change) {
  waiting += change;
  document.body.classList.toggle("busy", waiting > 0);
  $("status").textContent = waiting > 0 ? "running …" : "";
}
