"""How near is a folder to PyTorch, and is that near enough? Measured through the whole runtime: tokenizer, batches, session."""

from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from q3_runtime import score_fidelity, vector_fidelity
from q3_runtime.embedder import Embedder
from q3_runtime.errors import UsageError
from q3_runtime.golden import Golden
from q3_runtime.integrity import check_files
from q3_runtime.manifest import Manifest
from q3_runtime.quants import MAX_BATCH_DELTA, MAX_BATCH_SCORE_DELTA, MIN_BATCH_COSINE, UPPER_LIMITS
from q3_runtime.reranker import Reranker

WORDS = {
    "mean": "mean cosine", "min": "min cosine", "spearman": "rank correlation", "score_delta": "largest difference of a score",
}  # fmt: skip
"""Figures that a floor can be of."""


def verify_folder(
    folder: Path,
    *,
    quant: str | None = None,
    provider: str = "auto",
    threads: int | None = None,
    golden: Golden | None = None,
    progress: bool = False,
) -> dict[str, dict[str, Any]]:
    """Hash every file anew and measure each quant; quant → figures, ``floor``, ``failures``, ``worst``, ``provider``.

    Args:
        folder: an exported folder.
        quant: only this one; None: all that are there.
        provider: as for :class:`Embedder`.
        threads: as for :class:`Embedder`.
        golden: vectors to compare with; None takes those stored in the folder.
        progress: a progress bar on standard error.

    Raises:
        IntegrityError, ProviderError, UsageError, FidelityError: see q3_runtime.errors.
    """
    manifest = Manifest.read(folder)
    wanted = quants_of(manifest, quant)
    files = manifest.files | {name: file for each in wanted for name, file in manifest.quants[each].files.items()}
    check_files(folder, files, remember=False)
    golden = golden or Golden.read(folder, manifest.kind)
    results = {}
    for name in wanted:
        floor = manifest.floor(name)
        options: dict[str, Any] = {"quant": name, "provider": provider, "threads": threads}
        if manifest.kind == "reranker":
            with Reranker(folder, **options, self_check=False, check_hashes=False) as reranker:
                figures, distances = score_fidelity.measure(reranker, golden, progress=progress)
            furthest, used = worst(golden, distances, "score_delta"), reranker.provider
        else:
            with Embedder(folder, **options, self_check=False, check_hashes=False) as embedder:
                figures, cosines = vector_fidelity.measure(embedder, golden, progress=progress)
            furthest, used = worst(golden, cosines, "cosine"), embedder.provider
        results[name] = figures | {
            "floor": floor, "failures": failures(figures, floor, name), "worst": furthest, "provider": used,
        }  # fmt: skip
    return results


def quants_of(manifest: Manifest, quant: str | None = None) -> list[str]:
    """The quant that is asked for, or all that the folder has.

    Raises:
        UsageError: a quant that it does not have.
    """
    if quant is not None and quant not in manifest.quants:
        raise UsageError(f"quant {quant!r} is not in this folder, it has {', '.join(manifest.quants)}; pass one of these")
    return list(manifest.quants) if quant is None else [quant]


def failures(figures: dict[str, Any], floor: dict[str, float], quant: str) -> list[str]:
    """What falls below the floor or depends on the batch, in words; an empty list is a pass."""
    found = []
    for name, limit in floor.items():
        if name in UPPER_LIMITS and not figures[name] <= limit:
            found.append(f"{WORDS[name]} {figures[name]:.6f} is above {limit:g}")
        elif name not in UPPER_LIMITS and not figures[name] >= limit:
            found.append(f"{WORDS[name]} {figures[name]:.6f} is below {limit:g}")
    if figures["non_finite"]:
        found.append(f"{figures['non_finite']} of {figures['probes']} outputs are not finite")
    elif "batch_score_delta" in figures:
        most = MAX_BATCH_DELTA if quant == "fp32" else MAX_BATCH_SCORE_DELTA
        if not figures["batch_score_delta"] <= most:
            found.append(f"a score moves by {figures['batch_score_delta']:.1e} with its batch, more than {most:g}")
    elif quant == "fp32" and not figures["batch_max_delta"] <= MAX_BATCH_DELTA:
        found.append(f"a vector moves by {figures['batch_max_delta']:.1e} with its batch, more than {MAX_BATCH_DELTA:g}")
    elif not figures["batch_invariance"] >= MIN_BATCH_COSINE:
        found.append(f"cosine {figures['batch_invariance']:.6f} between alone and in a batch is below {MIN_BATCH_COSINE:g}")
    return found


def worst(golden: Golden, values: npt.NDArray[np.float32], unit: str, count: int = 3) -> list[dict[str, Any]]:
    """The probes that are furthest from PyTorch, worst first; ``unit`` says what the values [N] are."""
    rows = np.argsort(-values if unit in UPPER_LIMITS else values)[:count].tolist()
    pairs = [probe.text for probe in golden.probes if probe.kind == "pair"]
    start = len(commonprefix(pairs))  # noqa: RUF071  characters, the template's, are what is meant
    texts = [probe.text[start : start + 60] for probe in golden.probes]
    return [{"probe": row, "group": golden.probes[row].group, unit: float(values[row]), "text": texts[row]} for row in rows]
