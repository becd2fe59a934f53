"""sentence-transformers on a folder: sentence_transformers_vectors.py FOLDER ONNX_FILE < texts.json > vectors.json."""

import json
import sys

from sentence_transformers import SentenceTransformer

folder, onnx_file = sys.argv[1:]
texts = json.load(sys.stdin)
model = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs={"file_name": onnx_file})
json.dump({kind: model.encode(texts[kind], prompt_name=kind).tolist() for kind in texts}, sys.stdout)
