"""The quants: how weights are stored, and how near to PyTorch fp32 vectors and scores must stay."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quant:
    """One row of the table. Floors are cosines on the probe texts (see the folder's golden.json)."""

    name: str
    suffix: str
    """Appended to ``model`` in the file names; transformers.js's names for the same types."""
    min_floor: float
    """No probe's cosine to the PyTorch fp32 vector may be lower."""
    mean_floor: float | None = None
    """The mean cosine over the probes may not be lower; None where the min floor says enough."""
    rank_floor: float | None = None
    """Of a reranker: the rank correlation of its scores over the pairs may not be lower; None: MAX_SCORE_DELTA says enough."""

    def floor(self, kind: str = "embedding") -> dict[str, float]:
        """The limits for one kind of model, as they are written into the manifest; those in UPPER_LIMITS are from above."""
        if kind == "reranker":
            return {"score_delta": MAX_SCORE_DELTA} if self.rank_floor is None else {"spearman": self.rank_floor}
        return {"min": self.min_floor} | ({} if self.mean_floor is None else {"mean": self.mean_floor})

    @property
    def onnx_file(self) -> str:
        """Path of the graph within the folder; its weights are in the same path plus ``_data``."""
        return f"onnx/model{self.suffix}.onnx"


MAX_SCORE_DELTA = 1e-4
"""Of a reranker in fp32: largest difference of a score, between 0 and 1, to PyTorch's."""
UPPER_LIMITS = ("score_delta",)
"""Figures that are better the smaller they are."""

QUANTS = {
    quant.name: quant
    for quant in (
        Quant("fp32", "", min_floor=0.99999),
        Quant("fp16", "_fp16", min_floor=0.999, rank_floor=0.999),
        Quant("int8", "_int8", min_floor=0.98, mean_floor=0.99, rank_floor=0.995),
        Quant("q8", "_quantized", min_floor=0.998, rank_floor=0.999),
        Quant("q4", "_q4", min_floor=0.95, mean_floor=0.97, rank_floor=0.98),
        Quant("q4f16", "_q4f16", min_floor=0.95, mean_floor=0.97, rank_floor=0.98),
    )
}

CPU_ORDER = ("int8", "q8", "q4", "fp32", "fp16", "q4f16")
"""Which quant is taken on a CPU when none is named: the first that the folder has."""
CUDA_ORDER = ("fp16", "q4f16")
"""The same on CUDA, which runs no other quant whole: its GroupQueryAttention takes no float32."""

MAX_BATCH_DELTA = 1e-5
"""Batch invariance of fp32: a text alone and in any batch, largest difference of a component of the unit vectors."""
MIN_BATCH_COSINE = 0.9999
"""Batch invariance of every other quant: the same as a cosine."""
MAX_BATCH_SCORE_DELTA = 1e-3
"""Batch invariance of a reranker's quants but fp32, which has MAX_BATCH_DELTA: largest difference of a score."""
