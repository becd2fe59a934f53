"""Rerankers at the full shape of Qwen3-Reranker-0.6B with its tokenizer: healthy, and with published weights' outliers."""

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import SHARED
from tests.parity.test_full_quants import GAMMA
from tests.parity.test_reranker import PAIRS
from tests.support.checkpoints import FULL_06B, GAIN
from tests.support.official_reranker import OfficialReranker
from tests.support.rerankers import write_reranker

from q3_export import export_model
from q3_runtime import Reranker
from q3_runtime.golden import Golden
from q3_runtime.manifest import Manifest

pytestmark = pytest.mark.full("reranker")
QUANTS = ("fp32", "int8", "q8", "q4")


@pytest.fixture(scope="module", params=[None, GAMMA], ids=["healthy", "outliers"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its export."""
    home = tmp_path_factory.mktemp("full")
    tokenizer = SHARED / "qwen3/Qwen3-Reranker-0.6B"
    checkpoint = write_reranker(
        home / "Reranker-0.6B", FULL_06B, tokenizer=tokenizer, shards=2, embedding_std=GAIN, gamma=request.param
    )
    return checkpoint, export_model(checkpoint, quant=QUANTS, out=home / "onnx", progress=True)


def test_every_quant_is_at_its_floor(both: tuple[Path, Path]) -> None:
    for name, entry in Manifest.read(both[1]).quants.items():
        figures = entry.fidelity
        print(name, {key: figures[key] for key in ("spearman", "score_delta", "log_odds_delta", "log_odds_std")},
              len(entry.kept_wider), entry.total_bytes)  # fmt: skip
        assert figures["probes"] == 200
        for figure, limit in figures["floor"].items():
            assert figures[figure] <= limit if figure == "score_delta" else figures[figure] >= limit, name


def test_log_odds_spread_as_a_trained_head_makes_them(both: tuple[Path, Path]) -> None:
    assert Golden.read(both[1], "reranker").vectors.std() >= 1


def test_ids_and_fp32_scores_are_those_of_the_official_recipe(both: tuple[Path, Path]) -> None:
    """100 pairs for the ids, their log-odds by our reference; a few by the whole model with its whole vocabulary."""
    checkpoint, folder = both
    official, golden = OfficialReranker(checkpoint), Golden.read(folder, "reranker")
    pairs = [(pair["query"], pair["document"]) for pair in PAIRS]
    for pair, probe in zip(pairs[::2], golden.probes[::2], strict=True):
        assert list(probe.ids) == official.ids(*pair)
    with Reranker(folder, quant="fp32") as model:
        chosen = pairs[:100:2]
        expected = 1 / (1 + np.exp(-golden.vectors[:100:2, 0].astype(np.float64)))
        assert np.abs(model.score(chosen) - expected).max() <= 1e-4
        for pair in chosen[:4]:
            assert abs(float(model.score([pair], raw=True)[0]) - official.log_odds(official.ids(*pair))) <= 1e-3


@pytest.mark.parametrize("quant", ["fp32", "int8", "q8", "q4"])
def test_a_batch_is_one_by_one(both: tuple[Path, Path], quant: str) -> None:
    pairs = [(pair["query"], pair["document"]) for pair in PAIRS[::6][:16]]
    with Reranker(both[1], quant=quant) as model:
        alone = np.array([model.score([pair])[0] for pair in pairs])
        assert np.abs(alone - model.score(pairs, batch_tokens=10**6)).max() <= (1e-5 if quant == "fp32" else 1e-3)
