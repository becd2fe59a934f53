// Standard input: {folder, texts, quants}. Standard output: {ids, versions, vectors: {quant: {pipeline, sentence_embedding}}}.
// `ids` is what the tokenizer gives for each text alone, `vectors` come from one batch of all.
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { AutoModel, AutoTokenizer, env, pipeline } from "@huggingface/transformers";
import { env as runtime } from "onnxruntime-node";

const { folder, texts, quants } = JSON.parse(readFileSync(0, "utf8"));
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const model = basename(folder);

const tokenizer = await AutoTokenizer.from_pretrained(model);
const ids = texts.map((text) => Array.from(tokenizer(text).input_ids.data, Number));
const vectors = {};
for (const dtype of quants) {
  const extract = await pipeline("feature-extraction", model, { dtype });
  const pooled = await extract(texts, { pooling: "last_token", normalize: true });
  await extract.dispose();
  const network = await AutoModel.from_pretrained(model, { dtype });
  const { sentence_embedding } = await network(tokenizer(texts, { padding: true }));
  await network.dispose();
  vectors[dtype] = { pipeline: pooled.tolist(), sentence_embedding: sentence_embedding.tolist() };
}
const versions = { transformers: env.version, onnxruntime: runtime.versions.node };
process.stdout.write(JSON.stringify({ ids, versions, vectors }));
