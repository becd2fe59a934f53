"""The layer-at-a-time reference is AutoModel, loaded whole in float32."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.checkpoints import TINY, write_checkpoint
from transformers import AutoModel, AutoTokenizer

from q3_export import reference
from q3_export.checkpoint import Checkpoint, open_checkpoint
from q3_export.probes import read_probes
from q3_runtime.errors import ProviderError


def whole(folder: Path, ids: list[list[int]]) -> np.ndarray:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        states = torch.stack([model(torch.tensor([row])).last_hidden_state[0, -1] for row in ids])
    return torch.nn.functional.normalize(states, dim=-1).numpy()


def test_equals_auto_model_on_the_shipped_probes(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    ids = [probe.ids for probe in read_probes(None, opened)]
    np.testing.assert_array_equal(reference.embed(opened, ids), whole(checkpoint, ids))


@pytest.mark.parametrize(
    "options",
    [{"prefix": "model.", "tied": False}, {"dtype": torch.float16}, {"dtype": torch.float32, "shards": 3}],
    ids=["untied with prefix", "float16", "float32 in shards"],
)
def test_equals_auto_model_for_every_way_to_store_weights(tmp_path: Path, options: dict) -> None:
    folder = write_checkpoint(tmp_path / "stored", TINY, **options)
    ids = [[5, 6, 7, 8], [9]]
    np.testing.assert_array_equal(reference.embed(open_checkpoint(folder), ids), whole(folder, ids))


class Precisions:
    """Notes in what products are computed while a layer runs."""

    row = 0

    def __init__(self) -> None:
        self.found: set[str] = set()

    @contextmanager
    def watching(self, layer: torch.nn.Module) -> Iterator[None]:
        hook = layer.register_forward_hook(lambda *_: self.found.update(precisions()))
        yield
        hook.remove()


def precisions() -> list[str]:
    return [torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision]


@pytest.mark.parametrize(("allowed", "stated"), [("high", ["tf32", "tf32"]), ("medium", ["tf32", "bf16"])])
def test_products_are_in_float32_whatever_the_process_allows(checkpoint: Path, allowed: str, stated: list[str]) -> None:
    torch.set_float32_matmul_precision(allowed)
    try:
        seen = Precisions()
        reference.embed(open_checkpoint(checkpoint), [[5, 6, 7]], observers=[seen])
        assert seen.found == {"ieee"}
        assert (precisions(), torch.get_float32_matmul_precision()) == (stated, allowed)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_rerankers_answer_is_in_float32_too(reranker_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its head multiplies behind the layers."""
    seen: set[str] = set()
    head = Checkpoint.head

    def noting(self: Checkpoint) -> torch.Tensor:
        seen.update(precisions())
        return head(self)

    monkeypatch.setattr(Checkpoint, "head", noting)
    torch.set_float32_matmul_precision("medium")
    try:
        reference.log_odds(open_checkpoint(reranker_checkpoint), [[5, 6, 7]])
        assert seen == {"ieee"}
        assert precisions() == ["tf32", "bf16"]
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_gpu_without_memory_is_said_to_be_one(checkpoint: Path) -> None:
    class Full:
        row = 0

        def watching(self, layer: torch.nn.Module) -> AbstractContextManager[None]:
            layer.register_forward_hook(self.run_out)
            return nullcontext()

        def run_out(self, *_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.50 GiB.")

    with pytest.raises(ProviderError, match=r"than the GPU has free \(CUDA out of memory.*leave out --device"):
        reference.embed(open_checkpoint(checkpoint), [[5, 6, 7]], observers=[Full()])


def test_a_gpu_that_is_full_from_the_start_is_said_to_be_one(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long it will take is measured first."""

    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "ones", full)
    with pytest.raises(ProviderError, match="than the GPU has free"):
        reference.expected_seconds(open_checkpoint(checkpoint), 100)


def test_probe_ids_are_transformers_with_the_prompt_in_front(checkpoint: Path) -> None:
    probes = read_probes(None, open_checkpoint(checkpoint))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    prompt = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    texts = [(prompt if probe.kind == "query" else "") + probe.text for probe in probes]
    assert [probe.ids for probe in probes] == tokenizer(texts, truncation=True, max_length=2048)["input_ids"]


def test_a_byte_order_mark_is_no_part_of_the_first_probe(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text('{"text": "How do whales sleep?", "kind": "query"}\n{"text": "b"}\n', "utf-8-sig")
    first = read_probes(path, open_checkpoint(checkpoint))[0]
    assert (first.text, first.kind) == ("How do whales sleep?", "query")


def test_the_shipped_probes_are_128_texts_in_groups_of_ten_or_more(checkpoint: Path) -> None:
    probes = read_probes(None, open_checkpoint(checkpoint))
    groups = [probe.group for probe in probes]
    assert len(probes) == 128
    assert len({probe.text for probe in probes}) == 128
    assert min(groups.count(group) for group in set(groups)) >= 10
    assert "" in {probe.text for probe in probes}


def test_the_tiny_checkpoint_separates_texts(checkpoint: Path) -> None:
    """A model that gave every text the same vector would pass any comparison with itself."""
    opened = open_checkpoint(checkpoint)
    vectors = reference.embed(opened, [probe.ids for probe in read_probes(None, opened)])
    similarities = vectors @ vectors.T
    assert similarities[~np.eye(len(vectors), dtype=bool)].mean() <= 0.4
