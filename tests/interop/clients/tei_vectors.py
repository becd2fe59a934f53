"""A folder as text-embeddings-inference loads and feeds it, with its versions: tei_vectors.py FOLDER < texts.json.

Source: backends/ort/src/lib.rs and router/src/lib.rs of huggingface/text-embeddings-inference 1.9.3.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path(sys.argv[1])
texts = json.load(sys.stdin)
prompts = json.loads((folder / "config_sentence_transformers.json").read_text("utf-8"))["prompts"]
config = json.loads((folder / "config.json").read_text("utf-8"))
side = json.loads((folder / "tokenizer_config.json").read_text("utf-8")).get("padding_side", "right")
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.no_padding()
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL  # its Level3
graph = folder / "model.onnx"
session = onnxruntime.InferenceSession(str(graph if graph.exists() else folder / "onnx/model.onnx"), options)
names = [output.name for output in session.get_outputs()]
pad = config.get("pad_token_id") or config.get("eos_token_id") or 0


def embed(batch):
    rows = [tokenizer.encode(text).ids for text in batch]
    longest = max(map(len, rows))
    ids, mask = np.full((len(rows), longest), pad, dtype=np.int64), np.zeros((len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), None) if side == "left" else slice(len(row))
        ids[i, place], mask[i, place] = row, 1
    outputs = dict(zip(names, session.run(None, {"input_ids": ids, "attention_mask": mask}), strict=True))
    return outputs["sentence_embedding"].tolist()


found = {kind: embed([prompts[kind] + text for text in texts[kind]]) for kind in texts}  # it takes at most 8 at a time
json.dump(found, sys.stdout)
