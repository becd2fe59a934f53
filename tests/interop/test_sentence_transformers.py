"""sentence-transformers on our models: the trained one as it stands."""

import numpy as np
from sentence_transformers import SentenceTransformer
from tests.conftest import ROOT

from q3_runtime import Embedder

TEXTS = ["How do I repair a flat tyre?", "Patch the tube.", "ein Fahrrad mit zwei Rädern", "x", "def f(x):\n    return x + 1"]


def test_it_loads_the_trained_model_and_gives_our_vectors(mini: Embedder) -> None:
    theirs = SentenceTransformer(str(ROOT / "models/mini"), device="cpu")
    assert theirs.max_seq_length == 2048
    for prompt, ours in (("query", mini.encode_query(TEXTS)), ("document", mini.encode_document(TEXTS))):
        expected = theirs.encode(TEXTS, prompt_name=prompt)
        assert np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
        assert (expected * ours).sum(-1).min() >= 0.99999
