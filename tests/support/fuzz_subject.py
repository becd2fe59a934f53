"""Run by fuzzing.Subject: opens what lies at a path each time a line arrives, and answers what came of it.

Usage: python -m tests.support.fuzz_subject (folder|checkpoint) GOOD PATH ROOM. Once what is right is known, from GOOD, the
address space of the process may grow by ROOM bytes and no more.
"""

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tests.conftest import ROOT

from q3_runtime.errors import Q3Error

MOST_LEAST = 0.98
"""What a folder's cosines may sink to, or its quant's floor, if that is lower. The self-check looks at one text."""
PROBES = ROOT / "export/q3_export/data/probes.jsonl"
TEXTS = [
    probe["text"]
    for probe in map(json.loads, PROBES.read_text("utf-8").splitlines())
    if probe["kind"] == "document" and len(probe["text"]) < 120
][::7]
"""Golden ones: of others a folder that is signed anew proves nothing, a token that none of them has may be any other."""


def folder(path: Path) -> np.ndarray:
    """Vectors of some texts, float32 [B, D].

    In a thread of its own: tokenizers 0.23 keeps the words of every tokenizer that there was until the thread ends.
    """
    from q3_runtime import Embedder

    def vectors() -> np.ndarray:
        with Embedder(path, threads=1) as model:
            return model.encode(TEXTS)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(vectors).result()


def checkpoint(path: Path) -> np.ndarray:
    """Sums of all tensors, by name: float64 [tensors]."""
    from q3_export.checkpoint import open_checkpoint

    opened = open_checkpoint(path)
    opened.check_finite()
    assert opened.config.hidden_size == opened.dims
    names = sorted(name for name in opened.places if name != "lm_head.weight")
    return np.array([opened.tensor(name).double().sum().item() for name in names])


OPEN: dict[str, Callable[[Path], np.ndarray]] = {"folder": folder, "checkpoint": checkpoint}


def expected(kind: str, good: Path) -> tuple[np.ndarray, float]:
    """What is right, and the least cosine to it: of a folder PyTorch's vectors, which is what the floors of quants speak of."""
    found = OPEN[kind](good)
    if kind == "checkpoint":
        return found, 1 - 1e-12
    from q3_runtime import Embedder
    from q3_runtime.golden import Golden

    golden = Golden.read(good)
    rows = {probe.text: row for row, probe in enumerate(golden.probes) if probe.kind == "document"}
    with Embedder(good, threads=1) as model:
        floor = model.manifest.floor(model.quant)["min"]
    return golden.vectors[[rows[text] for text in TEXTS]], min(MOST_LEAST, floor)


def main(kind: str, good: str, path: str, room: str) -> None:
    """Answers on standard output, one JSON string a line."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not end
    right, least = expected(kind, Path(good))
    limit = _address_space() + int(room)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(json.dumps("right"), flush=True)
    for _ in sys.stdin:
        print(json.dumps(_outcome(kind, Path(path), right, least)), flush=True)


def _outcome(kind: str, path: Path, right: np.ndarray, least: float) -> str:
    try:
        found = OPEN[kind](path)
    except Q3Error as error:
        return f"refused: {error}"
    except BaseException:  # what a user would see as a traceback
        return f"a traceback: {traceback.format_exc()[-3000:]}"
    if found.shape != right.shape:
        return f"wrong: {found.shape}"
    cosines = (found * right).sum(axis=-1) / np.sqrt((found**2).sum(axis=-1) * (right**2).sum(axis=-1))
    return "right" if cosines.min() >= least else f"wrong: cosines {cosines}"


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(*sys.argv[1:])
