"""q3-onnx; the variant is the quant."""

from collections.abc import Callable
from pathlib import Path

from q3_runtime.batching import batches  # noqa: F401  # how the mixes are cut

LOADS_TOKENIZER = True
QUANTS = ("fp32", "int8", "q8", "q4")


def make(checkpoint: Path, variant: str, folder: Path, calibration: list[list[int]]) -> None:  # noqa: ARG001  # has its own
    from q3_export import export_model

    export_model(checkpoint, quant=QUANTS, out=folder / "onnx", progress=True)


def disk(checkpoint: Path, variant: str, folder: Path) -> int:  # noqa: ARG001
    from q3_runtime.manifest import Manifest

    return Manifest.read(folder / "onnx").quants[variant].total_bytes


def load(checkpoint: Path, variant: str, folder: Path, threads: int) -> Callable:  # noqa: ARG001
    import numpy as np

    from q3_runtime import Embedder

    model = Embedder(folder / "onnx", quant=variant, threads=threads, self_check=False)
    return lambda rows: model.run([np.asarray(row, np.int64) for row in rows])
