"""When a folder is loaded: do the golden texts have the ids that they had, and does one of them give what PyTorch gave?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from q3_runtime.errors import ProviderError
from q3_runtime.golden import Golden
from q3_runtime.scores import probabilities
from q3_runtime.vectors import Vectors, check_finite

if TYPE_CHECKING:
    from q3_runtime.embedder import Embedder
    from q3_runtime.reranker import Reranker

TOKENS = range(8, 33)
"""The first text of such a length is taken, else the shortest."""
MOST_TEXTS, MOST_TOKENS = 128, 512
"""Whose ids are compared, which takes some 20 ms: as many as come with q3-export, but for the few long ones."""
COSINE_ROOM = 0.003
"""How much further from PyTorch's the vector may be here than that of the same text was at export. With its activations in
float32 in place of 8 bits, as some processors run it, a q4 was seen to move by 0.0007."""
SCORE_ROOM = 0.01
"""How much further from PyTorch's a score may be here than the furthest was at export."""


def check_vector(model: "Embedder") -> None:
    """Same ids, and a cosine to PyTorch's vector that is not below the floor of the quant, and about as high as at export.

    Raises:
        ProviderError: another outcome than at export.
        NonFiniteError: no vector at all.
    """
    found, golden = _run_one(model, Golden.read(model.folder))
    check_finite(found, [0])
    figures = model.manifest.quants[model.quant].fidelity or {}
    cosine, floor = float(found[0] @ golden), model.manifest.floor(model.quant).get("min", -1.0)
    least = max(floor, figures.get("self_check", floor) - COSINE_ROOM)
    if not cosine >= least:
        raise _differs(model, f"cosine {cosine:.6f} to PyTorch's, expected at least {least:.7g}")


def check_score(model: "Reranker") -> None:
    """Same ids, and a score about as near to PyTorch's as at export.

    Raises:
        ProviderError: another outcome than at export.
        NonFiniteError: no score at all.
    """
    found, golden = _run_one(model, Golden.read(model.folder, "reranker"))
    check_finite(found, [0], what="score")
    figures = model.manifest.quants[model.quant].fidelity
    delta = float(abs(probabilities(found[0]) - probabilities(golden))[0])
    most = figures["score_delta"] + SCORE_ROOM if figures else 1.0
    if not delta <= most:
        raise _differs(model, f"a score is {delta:.4f} from PyTorch's, expected at most {most:.4f}")


def row_to_run(lengths: Sequence[int]) -> int:
    """Which of the probes is run, of those whose ids are compared, by their lengths in tokens."""
    few = range(min(len(lengths), MOST_TEXTS))
    return next((row for row in few if lengths[row] in TOKENS), min(few, key=lambda row: lengths[row]))


def _run_one(model: "Embedder | Reranker", golden: Golden) -> tuple[Vectors, Vectors]:
    """What the model gives for one probe, [1, X], and what PyTorch gave, [X]."""
    lengths = [len(probe.ids) for probe in golden.probes[:MOST_TEXTS]]
    rows = [row for row, length in enumerate(lengths) if length <= MOST_TOKENS] or [row_to_run(lengths)]
    probes = [golden.probes[row] for row in rows]
    for probe, encoded in zip(probes, model.encode_probes(probes), strict=True):
        ids = encoded.ids.tolist()
        if ids != probe.ids:
            at = next((i for i in range(len(ids)) if ids[: i + 1] != probe.ids[: i + 1]), len(ids))
            raise ProviderError(
                f"{model.folder}: self-check: {probe.text[:60]!r} gave ids {ids[at : at + 5]} from token {at} on, "
                f"expected {probe.ids[at : at + 5]}; type: pip install -U tokenizers, or export the folder again"
            )
    row = row_to_run(lengths)
    found, right = model.run([np.array(golden.probes[row].ids)]), golden.vectors[row]
    if found[0].shape != right.shape:
        raise _differs(model, f"{list(found[0].shape)} numbers, expected {list(right.shape)},")
    return found, right


def _differs(model: "Embedder | Reranker", what: str) -> ProviderError:
    return ProviderError(
        f"{model.folder}: self-check: {what} on {model.provider}; "
        f"try provider='cpu' or another quant, or type: q3 verify {model.folder}"
    )
