"""Is there room for it? Asked before any work."""

import shutil
from pathlib import Path

from q3_export.checkpoint import Checkpoint
from q3_export.recipes import Recipe
from q3_runtime.batching import BATCH_TOKENS
from q3_runtime.errors import ProviderError, StorageError
from q3_runtime.memory import ModelSizes, available_memory

BESIDE_WEIGHTS = 64_000_000
"""Bytes on the disk beside the weights: tokenizer, graphs, golden vectors."""
PROCESS_BYTES = 300_000_000
"""Bytes of memory that a process of the runtime has before it loads a model: Python, numpy, tokenizer, onnxruntime."""


def check(checkpoint: Checkpoint, recipes: list[Recipe], parent: Path, longest: int, *, verify: bool) -> None:
    """Disk for all quants, and memory to verify the largest of them on a text of ``longest`` tokens.

    Raises:
        StorageError: too little disk.
        ProviderError: too little memory.
    """
    table = checkpoint.table_weights
    sizes = {recipe.quant.name: recipe.size(table, checkpoint.weights - table) for recipe in recipes}
    need, free = sum(sizes.values()) + BESIDE_WEIGHTS, shutil.disk_usage(parent).free
    if free < need:
        raise StorageError(
            f"{parent}: {free / 1e9:.1f} GB free, the export needs {need / 1e9:.1f} GB; free some, or give another --out"
        )
    model = ModelSizes.read(checkpoint.folder)
    run = model.run_bytes(1, max(longest, BATCH_TOKENS)) if model else 0
    largest = max(sizes, key=lambda name: sizes[name])
    memory, available = sizes[largest] + run + PROCESS_BYTES, available_memory()
    if verify and available is not None and available < memory:
        raise ProviderError(
            f"verification of {largest} needs about {memory / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available; "
            "close other programs, or pass --no-verify and measure elsewhere with q3 verify"
        )
