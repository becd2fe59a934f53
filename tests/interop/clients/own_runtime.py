"""What the runtime itself gives in this environment: vectors of every quant of an embedding folder, scores of a reranker's.

Usage: own_runtime.py RUNTIME EMBEDDER RERANKER, a list of texts on standard input.
"""

import json
import platform
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import numpy
import onnxruntime
import tokenizers
import tqdm

from q3_runtime import Embedder, Reranker
from q3_runtime.manifest import Manifest

texts = json.load(sys.stdin)
embeddings, reranking = map(Path, sys.argv[2:])
vectors, scores = {}, {}
for quant in Manifest.read(embeddings).quants:
    with Embedder(embeddings, quant=quant) as embedder:
        vectors[quant] = embedder.encode(texts, progress=True).tolist()
for quant in Manifest.read(reranking).quants:
    with Reranker(reranking, quant=quant) as reranker:
        scores[quant] = reranker.score([(texts[0], text) for text in texts]).tolist()
versions = {module.__name__: module.__version__ for module in (numpy, onnxruntime, tokenizers, tqdm)}
print(json.dumps({"python": platform.python_version(), "versions": versions, "vectors": vectors, "scores": scores}))
