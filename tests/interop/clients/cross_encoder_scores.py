"""CrossEncoder on a reranker's folder: cross_encoder_scores.py FOLDER ONNX_FILE < pairs.json > scores.json, log-odds."""

import json
import sys

from sentence_transformers import CrossEncoder

folder, onnx_file = sys.argv[1:]
model = CrossEncoder(folder, backend="onnx", device="cpu", model_kwargs={"file_name": onnx_file})
json.dump(model.predict(json.load(sys.stdin)).tolist(), sys.stdout)
