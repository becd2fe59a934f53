// The model in the folder model/: text → ids → vectors, on onnxruntime-web.
import { VENDOR, body, fetched, library, manifestOfFolder, modelFile, parsed } from "./files.js";

const QUANTS = ["int8", "q8", "q4", "fp32", "fp16", "q4f16"]; // the first that the folder has, unless the address says ?quant=
const SIDE_FILES = ["tokenizer.json", "tokenizer_config.json"];

// progress(step, bytes so far, all bytes) → {about, prompts, encode(text) → {ids, cut}, embed([ids]) → [vector]}
export async function loadModel(progress) {
  const begun = performance.now();
  progress("what the folder holds", 0, 0);
  const manifest = await manifestOfFolder();
  const quant = chosen(manifest);
  const files = { ...manifest.files, ...manifest.quants[quant].files };
  const [runtime, tokenizers] = await Promise.all([library("ort.wasm.bundle.min.mjs"), library("tokenizers.min.mjs")]);

  const wasm = await fetched(new URL("ort-wasm-simd-threaded.wasm", VENDOR));
  const names = [...SIDE_FILES, ...Object.keys(manifest.quants[quant].files)];
  const bytes = names.reduce((sum, name) => sum + known(files, name).bytes, 0);
  const total = wasm.size + bytes;
  const wasmBinary = await body(wasm, (done) => progress("onnxruntime", done, total));
  let before = wasmBinary.length;
  const content = {};
  for (const name of names) {
    content[name] = await modelFile(name, files[name], (done) => progress(name, before + done, total));
    before += files[name].bytes;
  }

  progress("onnxruntime is starting", total, total);
  const graph = Object.keys(content).find((name) => name.endsWith(".onnx"));
  const externalData = Object.keys(content)
    .filter((name) => name.includes(".onnx_data"))
    .map((name) => ({ path: name.split("/").pop(), data: content[name] }));
  runtime.env.logLevel = "error";
  runtime.env.wasm.wasmBinary = wasmBinary;
  let session;
  try {
    session = await runtime.InferenceSession.create(content[graph], { executionProviders: ["wasm"], externalData });
  } catch (error) {
    throw new Error(`onnxruntime cannot start with model/${graph}: ${error.message ?? error}`);
  }
  const [tokenizer, settings] = SIDE_FILES.map((name) => parsed(content[name], name));
  const encode = encoder(tokenizers.Tokenizer, tokenizer, settings);
  const ids = (values, rows) => new runtime.Tensor("int64", values, [rows, values.length / rows]);
  const about = { name: manifest.source.id, quant, bytes, dims: manifest.dims, seconds: (performance.now() - begun) / 1000 };
  return { about, prompts: manifest.prompts, encode, embed: (rows) => embedded(session, ids, rows) };
}

function chosen(manifest) {
  const { schema_version: schema, kind } = manifest;
  if (schema !== 1) throw new Error(`model/q3.json has schema ${schema}, this page reads 1; take both from one version`);
  if (kind !== "embedding") throw new Error(`model/ holds a ${kind}, expected an embedding model; export one with q3-export`);
  const present = Object.keys(manifest.quants);
  const wanted = new URL(self.location.href).searchParams.get("quant");
  const quant = wanted ?? QUANTS.find((name) => present.includes(name));
  if (present.includes(quant)) return quant;
  throw new Error(`model/ has no quant ${wanted}, it has ${present.join(", ")}; change ?quant= in the address`);
}

function known(files, name) {
  if (!files[name]) throw new Error(`model/q3.json does not list ${name}; export the folder again`);
  return files[name];
}

// Text → ids, no more than the model takes, the final token always last; what cannot be among them is cut beforehand.
function encoder(Tokenizer, content, settings) {
  let tokenizer;
  try {
    tokenizer = new Tokenizer(content, settings);
  } catch (error) {
    throw new Error(`model/tokenizer.json cannot be used in this page: ${error.message}`);
  }
  const longest = settings.model_max_length;
  const final = tokenizer.encode("").ids;
  const characters = longest * Object.keys(content.model.vocab).reduce((most, token) => Math.max(most, token.length), 1);
  return (text) => {
    const { ids } = tokenizer.encode(text.slice(0, characters));
    if (ids.length <= longest) return { ids, cut: text.length > characters };
    return { ids: [...ids.slice(0, longest - final.length), ...final], cut: true };
  };
}

// ids [B][T] → unit vectors [B][D]. Rows are filled up on the right, where the mask is 0.
async function embedded(session, tensor, rows) {
  const width = Math.max(...rows.map((ids) => ids.length));
  const ids = new BigInt64Array(rows.length * width);
  const mask = new BigInt64Array(rows.length * width);
  rows.forEach((row, i) => {
    ids.set(row.map(BigInt), i * width);
    mask.fill(1n, i * width, i * width + row.length);
  });
  const feeds = { input_ids: tensor(ids, rows.length), attention_mask: tensor(mask, rows.length) };
  const { sentence_embedding: output } = await session.run(feeds, ["sentence_embedding"]).catch((error) => {
    throw new Error(`onnxruntime stopped: ${error.message ?? error}`);
  });
  const dims = output.dims[1];
  const vectors = rows.map((_, i) => output.data.slice(i * dims, (i + 1) * dims));
  if (vectors.every((vector) => vector.every(Number.isFinite) && vector.some(Boolean))) return vectors;
  throw new Error("the model gave NaN, infinity or zeros; take another quant, ?quant=fp32 say");
}
