"""Other tools on our folders: the texts that they are given, and how near their vectors come to ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from q3_runtime import Embedder, Reranker
from q3_runtime.batching import pad
from q3_runtime.manifest import OUTPUTS
from q3_runtime.saturation import precise_entry
from q3_runtime.session import load_graph
from q3_runtime.tokenization import Encoded
from q3_runtime.vectors import Vectors

QUANTS = ("fp32", "int8", "q8", "q4")
TEXTS = {
    "query": ["How do I repair a flat tyre?", "x", "capital of France " * 40, "唐朝的都城在哪里？"],
    "document": ["Patch the tube.", "", "ein Fahrrad mit zwei Rädern " * 30, "def f(x):\n    return x + 1", "😀", "x"],
}
"""By prompt; one batch each, of one token to some hundred."""
MIN_COSINE = 0.9999


def lowest_cosine(folder: Path, quant: str, theirs: Mapping[str, Sequence[Sequence[float]]]) -> float:
    """Of all TEXTS, between their vectors and those of our runtime with the same quant."""
    lowest = []
    with Embedder(folder, quant=quant) as model:
        for prompt, texts in TEXTS.items():
            found = np.array(theirs[prompt])
            ours = run_unset(model, model.tokenizer.encode(texts, prefix=model.prompts[prompt]))
            assert found.shape == ours.shape
            assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
            lowest.append((found * ours).sum(-1).min())
    return float(min(lowest))


def run_unset(model: Embedder | Reranker, encoded: Sequence[Encoded]) -> Vectors:
    """What our runtime gives, float32 [B, D] or [B, 1]; except where the CPU loses sums of 8-bit products.

    There our runtime tells onnxruntime to compute precisely, and most tools cannot. So this does not tell it either.
    """
    ids = [one.ids for one in encoded]
    entry = model.manifest.quants[model.quant]
    if not (entry.has_int8_products and precise_entry(onnxruntime)):
        return model.run(ids)
    session = load_graph(model.folder / entry.onnx_file, model.provider)
    return np.concatenate([session.run([OUTPUTS[model.manifest.kind]], pad([row], 0))[0] for row in ids])
