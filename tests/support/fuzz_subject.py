"""Run by fuzzing.Subject: opens what lies at a path each time a line arrives, and answers what came of it.

Usage: python -m tests.support.fuzz_subject (folder|checkpoint) GOOD PATH ROOM. Once what is right is known, from GOOD, the
address space of the process may grow by ROOM bytes and no more.
"""

import json
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from q3_runtime.errors import Q3Error

TEXTS = ["a", "What is petroleum?", "ü" * 20]


def folder(path: Path) -> np.ndarray:
    """Vectors of some texts, float32 [B, D]."""
    from q3_runtime import Embedder

    with Embedder(path, threads=1) as model:
        return model.encode(TEXTS)


def checkpoint(path: Path) -> np.ndarray:
    """Sums of all tensors, by name: float64 [tensors]."""
    from q3_export.checkpoint import open_checkpoint

    opened = open_checkpoint(path)
    opened.check_finite()
    assert opened.config.hidden_size == opened.dims
    names = sorted(name for name in opened.places if name != "lm_head.weight")
    return np.array([opened.tensor(name).double().sum().item() for name in names])


OPEN: dict[str, Callable[[Path], np.ndarray]] = {"folder": folder, "checkpoint": checkpoint}


def main(kind: str, good: str, path: str, room: str) -> None:
    """Answers on standard output, one JSON string a line."""
    right = OPEN[kind](Path(good))
    limit = _address_space() + int(room)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(json.dumps("right"), flush=True)
    for _ in sys.stdin:
        print(json.dumps(_outcome(OPEN[kind], Path(path), right)), flush=True)


def _outcome(open_: Callable[[Path], np.ndarray], path: Path, right: np.ndarray) -> str:
    try:
        found = open_(path)
    except Q3Error as error:
        return f"refused: {error}"
    except BaseException:  # what a user would see as a traceback
        return f"a traceback: {traceback.format_exc()[-3000:]}"
    if found.shape == right.shape and np.allclose(found, right, atol=1e-3):
        return "right"
    return f"wrong: {found.shape}, {np.abs(found - right).max() if found.shape == right.shape else right.shape}"


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(*sys.argv[1:])
