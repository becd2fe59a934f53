// The page: what is typed, what is shown. The work is done in worker.js.
"use strict";

const SHOWN = 100;
const $ = (id) => document.getElementById(id);
let asked = 0;
let lines = [];
let worker = null;
let loaded = false;

$("search").addEventListener("submit", (event) => (event.preventDefault(), search()));
for (const example of document.querySelectorAll("#examples button")) {
  example.addEventListener("click", () => {
    $("query").value = example.textContent;
    search();
  });
}
start();

function start() {
  const lacks = [
    [location.protocol === "file:", "This page was opened as a file, and then it may load nothing; type scripts/web instead."],
    [typeof WebAssembly !== "object", "WebAssembly is not available in this browser, and the model runs on it; turn it on."],
    [typeof Worker !== "function", "Web workers are not available in this browser, and the model runs in one; use another."],
  ];
  const [, lack] = lacks.find(([found]) => found) ?? [];
  for (const button of document.querySelectorAll("button")) button.disabled = false; // Firefox keeps it over a reload
  if (lack) return fail(lack);
  idle("Starting…");
  worker = new Worker(`worker.js${location.search}`, { type: "module" });
  worker.onmessage = ({ data }) => handlers[data.type](data);
  worker.onerror = ({ message }) => {
    worker.terminate();
    fail(`The worker stopped: ${message || "one of its scripts is missing, or this browser is too old"}; reload the page.`);
  };
  search(); // waits until the model is there
}

const handlers = {
  loading({ step, bytes, total }) {
    const text = total ? `${megabytes(bytes)} of ${megabytes(total)} MB` : "";
    busy(`Loading the model: ${step}`, bytes, total, text);
  },
  ready({ name, quant, bytes, dims, seconds }) {
    loaded = true;
    $("model").textContent = `${name}, ${quant}: ${megabytes(bytes)} MB, ${dims} dimensions, loaded in ${seconds.toFixed(1)} s`;
    idle("Ready.");
  },
  embedding({ id, done, total }) {
    if (id === asked) busy("Embedding the lines", done, total, `${done} of ${total}`);
  },
  ranking({ id, scores, embedded, cut, seconds }) {
    if (id !== asked) return;
    show(scores);
    const parts = [`${count(lines.length, "line")} ranked in ${seconds.toFixed(2)} s`];
    parts.push(embedded ? `${embedded} embedded` : "only the query embedded");
    if (lines.length > SHOWN) parts.push(`the best ${SHOWN} shown`);
    if (cut) parts.push(`${count(cut, "text")} longer than the model reads, cut`);
    idle(`${parts.join(", ")}.`);
  },
  failed({ id, message }) {
    if (id !== undefined && id !== asked) return;
    $("results").replaceChildren();
    fail(message, id === undefined);
  },
};

function search() {
  lines = $("texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const query = $("query").value.trim();
  $("texts").setAttribute("aria-invalid", !lines.length);
  $("query").setAttribute("aria-invalid", lines.length > 0 && !query);
  $("error").textContent = "";
  asked += 1; // an answer that is still on its way is no longer wanted
  if (!lines.length) return refuse("texts", "There is nothing to search; paste at least one line of text.");
  if (!query) return refuse("query", "There is no query; type what you look for.");
  worker.postMessage({ id: asked, texts: lines, query });
}

function refuse(field, message) {
  $(field).focus();
  $("results").replaceChildren();
  fail(message, false);
}

function show(scores) {
  const order = scores.map((_, row) => row).sort((a, b) => scores[b] - scores[a]);
  const items = order.slice(0, SHOWN).map((row) => {
    const item = document.createElement("li");
    const score = document.createElement("data");
    score.value = scores[row];
    score.textContent = scores[row].toFixed(3);
    const text = document.createElement("span");
    text.dir = "auto";
    text.textContent = lines[row];
    item.append(score, text);
    score.style.setProperty("--score", Math.max(0, scores[row]));
    return item;
  });
  $("results").replaceChildren(...items);
}

function busy(step, value, max, figures) {
  const text = `${step}…`;
  if ($("status").textContent !== text) $("status").textContent = text; // read aloud once, not with every piece
  $("figures").textContent = figures;
  $("progress").hidden = false;
  if (max) Object.assign($("progress"), { max, value });
}

function idle(text) {
  $("status").textContent = text;
  $("figures").textContent = "";
  $("progress").hidden = true;
}

// Where it is over, nothing can be asked any more.
function fail(message, over = true) {
  if (over) idle("Stopped.");
  else if (loaded) idle("Ready.");
  $("error").textContent = message;
  if (over) for (const button of document.querySelectorAll("button")) button.disabled = true;
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
