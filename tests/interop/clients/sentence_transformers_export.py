"""A stranger's folder: sentence_transformers_export.py CHECKPOINT OUT, as sentence-transformers exports and saves it."""

import sys

from sentence_transformers import SentenceTransformer

checkpoint, out = sys.argv[1:]
model = SentenceTransformer(checkpoint, backend="onnx", device="cpu", model_kwargs={"export": True})
model.save_pretrained(out)
