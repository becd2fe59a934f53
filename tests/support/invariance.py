"""Random batches: what a text's vector owes to its neighbours."""

import random

import numpy as np

from q3_runtime import Embedder

LARGEST = 32


def worst_cosine(model: Embedder, texts: list[str], batches: int, seed: int = 0) -> float:
    """Lowest cosine between a text alone and in random batches of 1 to 32 texts, padded on either side."""
    ids = [item.ids for item in model.tokenizer.encode(texts)]
    alone = np.concatenate([model.run([row]) for row in ids])
    rng, worst = random.Random(seed), 1.0
    for _ in range(batches):
        rows = [rng.randrange(len(ids)) for _ in range(rng.randint(1, LARGEST))]
        vectors = model.run([ids[row] for row in rows], padding_side=rng.choice(["left", "right"]))
        worst = min(worst, float((vectors * alone[rows]).sum(-1).min()))
    return worst
