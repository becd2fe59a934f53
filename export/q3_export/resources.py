"""Is there room for it? Asked before any work."""

import shutil
from collections.abc import Collection
from pathlib import Path

import torch

from q3_export.checkpoint import Checkpoint
from q3_export.recipes import Recipe
from q3_export.verification import provider_of
from q3_runtime.batching import CPU_BUDGET
from q3_runtime.errors import ProviderError, StorageError
from q3_runtime.memory import ModelSizes, available_memory
from q3_runtime.session import WITH_CUDA, cuda_loads

BESIDE_WEIGHTS = 64_000_000
"""Bytes on the disk beside the weights: tokenizer, graphs, golden vectors."""
PROCESS_BYTES = 300_000_000
"""Bytes of memory that a process of the runtime has before it loads a model: Python, numpy, tokenizer, onnxruntime."""


def check_device(device: str, verified: Collection[str]) -> None:
    """``cuda`` is there for PyTorch, and for onnxruntime where a quant is to be verified there.

    Raises:
        ProviderError: it is not.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ProviderError(
            f"device 'cuda': PyTorch {torch.__version__} finds no CUDA here; leave out --device, or install PyTorch for CUDA"
        )
    there = [name for name in verified if provider_of(device, name) == "cuda"]
    if there and not cuda_loads():
        raise ProviderError(
            f"device 'cuda': onnxruntime, which verifies {', '.join(there)} there, finds no CUDA here; leave out --device, or "
            f"type: {WITH_CUDA}"
        )


def check(checkpoint: Checkpoint, recipes: list[Recipe], parent: Path, longest: int, *, verified: list[Recipe]) -> None:
    """Disk for all quants, and memory to verify each of ``verified`` on a CPU, on texts of up to ``longest`` tokens.

    Raises:
        StorageError: too little disk.
        ProviderError: too little memory.
    """
    table, others = checkpoint.table_weights, checkpoint.weights - checkpoint.table_weights
    need, free = sum(recipe.room(table, others) for recipe in recipes) + BESIDE_WEIGHTS, shutil.disk_usage(parent).free
    if free < need:
        raise StorageError(
            f"{parent}: {free / 1e9:.1f} GB free, the export needs {need / 1e9:.1f} GB; free some, or give another --out"
        )
    needs = {}
    for recipe in verified:
        model = ModelSizes.read(checkpoint.folder, tiled=recipe.activations != "float16")
        run = model.run_bytes(max(1, CPU_BUDGET.batch_tokens // longest), longest) if model else 0
        needs[recipe.quant.name] = recipe.memory(table, others) + run + PROCESS_BYTES
    largest = max(needs, key=lambda name: needs[name], default="")
    memory, available = needs.get(largest, 0), available_memory()
    if available is not None and available < memory:
        raise ProviderError(
            f"verification of {largest} needs about {memory / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available; "
            "close other programs, or pass --no-verify and measure elsewhere with q3 verify"
        )
