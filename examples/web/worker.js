// Ranks lines by their similarity to a query, away from the page's own thread.
// In:  {id, texts: [string], query}
// Out: {type: "loading", step, bytes, total}
//      {type: "ready", name, quant, bytes, dims, seconds}
//      {type: "embedding", id, done, total}
//      {type: "ranking", id, scores: [number], embedded, cut, seconds}
//      {type: "failed", id, message}; without an id nothing can be asked any more
import { loadModel } from "./model.js";

const ROWS_A_BATCH = 8;
const TOKENS_A_BATCH = 2048; // with the padding; WASM has 4 GB

const kept = new Map(); // text → its vector, so that another query embeds nothing but itself
let latest = 0;
let running = Promise.resolve(); // one question at a time

const loading = loadModel((step, bytes, total) => self.postMessage({ type: "loading", step, bytes, total }));
loading.then(
  ({ about }) => self.postMessage({ type: "ready", ...about }),
  ({ message }) => self.postMessage({ type: "failed", message }),
);

self.onmessage = ({ data }) => {
  latest = data.id;
  running = running.then(() => answer(data));
};

async function answer({ id, texts, query }) {
  const model = await loading.catch(() => null);
  if (!model || id !== latest) return;
  try {
    await rank(model, id, texts, query);
  } catch (error) {
    self.postMessage({ type: "failed", id, message: error.message ?? String(error) });
  }
}

async function rank(model, id, texts, query) {
  const begun = performance.now();
  const wanted = new Set(texts);
  for (const text of kept.keys()) if (!wanted.has(text)) kept.delete(text);
  const todo = [...wanted].filter((text) => !kept.has(text)).map((text) => ({ text, ...model.encode((model.prompts.document ?? "") + text) }));
  todo.sort((a, b) => a.ids.length - b.ids.length); // alike lengths together: little padding
  for (let done = 0, end = 0; done < todo.length; done = end) {
    self.postMessage({ type: "embedding", id, done, total: todo.length });
    do end += 1; while (end < todo.length && end - done < ROWS_A_BATCH && (end + 1 - done) * todo[end].ids.length <= TOKENS_A_BATCH);
    const batch = todo.slice(done, end);
    const vectors = await model.embed(batch.map(({ ids }) => ids));
    batch.forEach(({ text, cut }, row) => kept.set(text, { vector: vectors[row], cut }));
    await new Promise((resume) => setTimeout(resume)); // lets a newer question in
    if (id !== latest) return;
  }
  const asked = model.encode((model.prompts.query ?? "") + query);
  const [question] = await model.embed([asked.ids]);
  const scores = texts.map((text) => kept.get(text).vector.reduce((sum, value, i) => sum + value * question[i], 0));
  const cut = texts.filter((text) => kept.get(text).cut).length + asked.cut;
  self.postMessage({ type: "ranking", id, scores, embedded: todo.length, cut, seconds: (performance.now() - begun) / 1000 });
}
