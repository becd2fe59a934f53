"""optimum on a folder: optimum_vectors.py FOLDER ONNX_FILE < texts.json, prints {class: vectors}."""

import json
import sys
from pathlib import Path

from optimum.onnxruntime import ORTModelForCustomTasks, ORTModelForFeatureExtraction
from transformers import AutoTokenizer

folder, onnx_file = sys.argv[1:]
texts = json.load(sys.stdin)
prompts = json.loads(Path(folder, "config_sentence_transformers.json").read_text("utf-8"))["prompts"]
tokenizer = AutoTokenizer.from_pretrained(folder)
place = {"subfolder": Path(onnx_file).parent.name, "file_name": Path(onnx_file).name}
tokens = ORTModelForFeatureExtraction.from_pretrained(folder, **place)
everything = ORTModelForCustomTasks.from_pretrained(folder, **place)
vectors = {"ORTModelForFeatureExtraction": {}, "ORTModelForCustomTasks": {}}
for kind in texts:
    batch = tokenizer([prompts[kind] + text for text in texts[kind]], padding=True, return_tensors="pt")
    last = tokens(**batch).last_hidden_state[:, -1]  # padding is on the left
    vectors["ORTModelForFeatureExtraction"][kind] = (last / last.norm(dim=-1, keepdim=True)).tolist()
    vectors["ORTModelForCustomTasks"][kind] = everything(**batch)["sentence_embedding"].tolist()
json.dump(vectors, sys.stdout)
