"""Is there room for it? Asked before any work."""

import shutil
from pathlib import Path

import torch

from q3_export.checkpoint import Checkpoint
from q3_export.recipes import Recipe
from q3_runtime.batching import BATCH_TOKENS
from q3_runtime.errors import ProviderError, StorageError
from q3_runtime.memory import ModelSizes, available_memory

BESIDE_WEIGHTS = 64_000_000
"""Bytes on the disk beside the weights: tokenizer, graphs, golden vectors."""
PROCESS_BYTES = 300_000_000
"""Bytes of memory that a process of the runtime has before it loads a model: Python, numpy, tokenizer, onnxruntime."""


def check_device(device: str) -> None:
    """``cuda`` is there for PyTorch.

    Raises:
        ProviderError: it is not.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ProviderError(
            f"device 'cuda': PyTorch {torch.__version__} finds no CUDA here; leave out --device, or install PyTorch for CUDA"
        )


def check(checkpoint: Checkpoint, recipes: list[Recipe], parent: Path, longest: int, *, verify: bool) -> None:
    """Disk for all quants, and memory to verify each of them on a text of ``longest`` tokens.

    Raises:
        StorageError: too little disk.
        ProviderError: too little memory.
    """
    table, others = checkpoint.table_weights, checkpoint.weights - checkpoint.table_weights
    need, free = sum(recipe.size(table, others) for recipe in recipes) + BESIDE_WEIGHTS, shutil.disk_usage(parent).free
    if free < need:
        raise StorageError(
            f"{parent}: {free / 1e9:.1f} GB free, the export needs {need / 1e9:.1f} GB; free some, or give another --out"
        )
    needs = {}
    for recipe in recipes:
        model = ModelSizes.read(checkpoint.folder, tiled=recipe.activations != "float16")
        run = model.run_bytes(1, max(longest, BATCH_TOKENS)) if model else 0
        needs[recipe.quant.name] = recipe.memory(table, others) + run + PROCESS_BYTES
    largest = max(needs, key=lambda name: needs[name])
    memory, available = needs[largest], available_memory()
    if verify and available is not None and available < memory:
        raise ProviderError(
            f"verification of {largest} needs about {memory / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available; "
            "close other programs, or pass --no-verify and measure elsewhere with q3 verify"
        )
