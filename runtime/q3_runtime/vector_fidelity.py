"""How near are a model's vectors to PyTorch's?"""

from typing import Any

import numpy as np
import numpy.typing as npt

from q3_runtime.embedder import Embedder
from q3_runtime.golden import Golden
from q3_runtime.probing import alone_and_mixed, finite, golden_ids, rounded, run_all, spearman
from q3_runtime.self_check import row_to_run
from q3_runtime.vectors import Vectors, truncated

NEIGHBOURS = 10


def measure(model: Embedder, golden: Golden, *, progress: bool = False) -> tuple[dict[str, Any], Vectors]:
    """Embed every probe and compare with its PyTorch vector: the figures for the manifest, and each probe's cosine [N].

    Figures: cosine mean, p5 (5th percentile) and min over the probes, mean and min by group and by MRL dimension;
    ``self_check``: that of the one probe which is run whenever the folder is loaded; ``top10_overlap``: share of each probe's
    ten nearest probes that stay the same; ``spearman`` of all pairwise similarities; ``batch_invariance``: worst cosine
    between a probe alone and in mixed batches with padding on either side, ``batch_max_delta`` the largest difference of a
    component there; ``non_finite``: vectors with NaN or infinity, which count as cosine 0.

    Raises:
        FidelityError: the tokenizer gives other ids than the exporter's.
    """
    ids = golden_ids(model, golden)
    vectors = run_all(model, ids, progress=progress)
    non_finite = int((~np.isfinite(vectors)).any(axis=1).sum())
    vectors = finite(vectors)
    cosines = np.sum(vectors * golden.vectors, axis=1)
    groups = sorted({probe.group for probe in golden.probes})
    by_group = {group: cosines[[probe.group == group for probe in golden.probes]] for group in groups}
    by_dim = {
        str(dim): np.sum(truncated(vectors, dim) * truncated(golden.vectors, dim), axis=1) for dim in model.manifest.mrl_dims
    }
    ours, theirs = vectors @ vectors.T, golden.vectors @ golden.vectors.T
    pairs = np.triu_indices(len(ids), k=1)
    alone, mixed = alone_and_mixed(model, ids)
    figures = {
        "probes": len(ids),
        "non_finite": non_finite,
        **_summary(cosines),
        "self_check": rounded(cosines[row_to_run([len(probe.ids) for probe in golden.probes])]),
        "p5": rounded(np.percentile(cosines, 5)),
        "by_group": {group: _summary(values) for group, values in by_group.items()},
        "by_dim": {dim: _summary(values) for dim, values in by_dim.items()},
        "top10_overlap": rounded(_overlap(ours, theirs)),
        "spearman": rounded(spearman(ours[pairs], theirs[pairs])),
        "batch_invariance": rounded(np.sum(alone * mixed, axis=1).min()),
        "batch_max_delta": float(np.abs(alone - mixed).max()),
    }
    return figures, cosines


def _overlap(ours: Vectors, theirs: Vectors) -> float:
    count = min(NEIGHBOURS, len(ours) - 1)

    def nearest(similarities: Vectors) -> list[set[int]]:
        others = similarities - 4 * np.eye(len(similarities), dtype=np.float32)  # a probe is not its own neighbour
        return [set(row.tolist()) for row in np.argsort(-others, axis=1, kind="stable")[:, :count]]

    return float(np.mean([len(a & b) / count for a, b in zip(nearest(ours), nearest(theirs), strict=True)]))


def _summary(values: npt.NDArray[np.float32]) -> dict[str, float]:
    return {"mean": rounded(values.mean(dtype=np.float64)), "min": rounded(values.min())}
