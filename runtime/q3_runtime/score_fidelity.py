"""How near are a reranker's scores to PyTorch's?"""

from typing import Any

import numpy as np

from q3_runtime.golden import Golden
from q3_runtime.probing import alone_and_mixed, golden_ids, rounded, run_all, spearman
from q3_runtime.reranker import Reranker
from q3_runtime.scores import probabilities
from q3_runtime.vectors import Vectors


def measure(model: Reranker, golden: Golden, *, progress: bool = False) -> tuple[dict[str, Any], Vectors]:
    """Score every golden pair and compare with PyTorch: the figures for the manifest, and each pair's |Δ score| [N].

    Figures: ``spearman``, the rank correlation over the pairs; ``score_delta``, ``score_delta_mean`` and ``log_odds_delta``,
    the largest and mean difference of a score between 0 and 1, and the largest of the log-odds, beside ``log_odds_std``, the
    spread of PyTorch's; ``by_group``; ``batch_score_delta``, the largest difference between a pair alone and in mixed batches
    with padding on either side; ``non_finite``: scores with NaN or infinity, which count as wrong by 1.

    Raises:
        FidelityError: the tokenizer gives other ids than the exporter's.
    """
    ids = golden_ids(model, golden)
    found, expected = run_all(model, ids, progress=progress)[:, 0], golden.vectors[:, 0]
    good = np.isfinite(found)
    found = np.where(good, found, np.float32(0))
    delta = np.where(good, np.abs(probabilities(found) - probabilities(expected)), np.float32(1))
    groups = {group: [probe.group == group for probe in golden.probes] for group in sorted({p.group for p in golden.probes})}
    alone, mixed = alone_and_mixed(model, ids)
    figures = {
        "probes": len(ids),
        "non_finite": int((~good).sum()),
        "spearman": rounded(spearman(found, expected)),
        "score_delta": rounded(delta.max()),
        "score_delta_mean": rounded(delta.mean()),
        "log_odds_delta": rounded(np.abs(found - expected).max()),
        "log_odds_std": rounded(expected.std()),
        "by_group": {group: {"score_delta": rounded(delta[rows].max())} for group, rows in groups.items()},
        "batch_score_delta": float(np.abs(probabilities(alone) - probabilities(mixed)).max()),
    }
    return figures, delta
