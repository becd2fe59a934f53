"""Other tools on our folders: the texts that they are given, and how near their vectors come to ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from q3_runtime import Embedder

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
            ours, found = model.encode(texts, prompt_name=prompt), np.array(theirs[prompt])
            assert found.shape == ours.shape
            assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
            lowest.append((found * ours).sum(-1).min())
    return float(min(lowest))
