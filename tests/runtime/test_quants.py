"""The floors are those of the design, written down a second time: an export that misses its own would fail by itself."""

import pytest

from q3_runtime.quants import QUANTS

EMBEDDING = {
    "int8": {"mean": 0.99, "min": 0.98}, "q8": {"min": 0.998}, "q4": {"mean": 0.97, "min": 0.95},
    "q4f16": {"mean": 0.97, "min": 0.95}, "fp16": {"min": 0.999}, "fp32": {"min": 0.99999},
}  # fmt: skip
RERANKER = {
    "int8": {"spearman": 0.995}, "q8": {"spearman": 0.999}, "q4": {"spearman": 0.98}, "q4f16": {"spearman": 0.98},
    "fp16": {"spearman": 0.999}, "fp32": {"score_delta": 1e-4},
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTS)
def test_the_floors_of_a_quant(name):
    assert QUANTS[name].floor("embedding") == EMBEDDING[name]
    assert QUANTS[name].floor("reranker") == RERANKER[name]
