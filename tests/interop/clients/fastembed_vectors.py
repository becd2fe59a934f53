"""fastembed on a folder: fastembed_vectors.py FOLDER ONNX_FILE POOLING < texts.json > vectors.json."""

import json
import sys
from pathlib import Path

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

POOLINGS = {
    "in the graph": {"pooling": PoolingType.DISABLED, "normalization": False, "output_name": "sentence_embedding"},
    "last token": {"pooling": PoolingType.LAST_TOKEN, "normalization": True},  # of the first output
}
folder, onnx_file, pooling = sys.argv[1:]
texts = json.load(sys.stdin)
dims = json.loads(Path(folder, "config.json").read_text("utf-8"))["hidden_size"]
prompts = json.loads(Path(folder, "config_sentence_transformers.json").read_text("utf-8"))["prompts"]
name = "a/folder"  # nobody asks the hub for it where specific_model_path is given
TextEmbedding.add_custom_model(
    name,
    sources=ModelSource(hf=name),
    dim=dims,
    model_file=onnx_file,
    additional_files=[f"{onnx_file}_data"],
    **POOLINGS[pooling],
)
model = TextEmbedding(name, specific_model_path=folder)
vectors = {
    "query": model.query_embed([prompts["query"] + text for text in texts["query"]]),  # it adds no prompt itself
    "document": model.passage_embed(texts["document"]),
}
json.dump({kind: np.stack(list(found)).tolist() for kind, found in vectors.items()}, sys.stdout)
