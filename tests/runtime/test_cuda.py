"""What runs on a GPU, against the CPU; all of it is skipped where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from q3_export import export_model
from q3_runtime import Embedder, Reranker
from q3_runtime.batching import pad
from q3_runtime.errors import ProviderError
from q3_runtime.quants import CUDA_ORDER, MAX_BATCH_SCORE_DELTA, MIN_BATCH_COSINE
from q3_runtime.runner import NO_MEMORY
from q3_runtime.session import PROVIDERS, cuda_loads, load_graph

pytestmark = [
    pytest.mark.skipif(not cuda_loads(), reason="no GPU here, or onnxruntime's build for CPUs"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here, or PyTorch's build for CPUs"),
]
TEXTS = ["", "a", "one text", "and a longer one, " * 20, "東京タワー 夜景", "import numpy as np\n" * 40]
NEAR = 0.9999
"""Least cosine of a vector in float16 from a GPU to that from a CPU, of which each is as near to float32."""
ROOM = 32_000_000
"""Bytes that are left on a GPU that is full."""


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint; its reference computed, and the quants that CUDA runs verified, on the GPU."""
    return export_model(checkpoint, quant="fp32,fp16,q4f16", out=tmp_path_factory.mktemp("exports") / "cuda", device="cuda")


@pytest.fixture(scope="module")
def reranker(reranker_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(reranker_checkpoint, quant="fp16,q4f16", out=tmp_path_factory.mktemp("exports") / "r", device="cuda")


def test_vectors_from_a_gpu_are_those_from_a_cpu(exported):
    """In fp16: q4f16 has activations in 8 bits on a CPU alone."""
    there, here = Embedder(exported, quant="fp16"), Embedder(exported, quant="fp16", provider="cpu")
    assert (there.provider, here.provider) == (PROVIDERS["cuda"], PROVIDERS["cpu"])
    assert (there.encode(TEXTS) * here.encode(TEXTS)).sum(axis=1).min() > NEAR


@pytest.mark.parametrize("quant", CUDA_ORDER)
def test_a_text_alone_and_in_a_batch_has_the_same_vector_on_a_gpu(exported, quant):
    model = Embedder(exported, quant=quant, provider="cuda")
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    assert (model.encode(TEXTS) * alone).sum(axis=1).min() >= MIN_BATCH_COSINE


def test_attention_on_a_gpu_is_not_planned_for_each_shape(exported):
    session = load_graph(exported / "onnx/model_fp16.onnx", PROVIDERS["cuda"])
    assert session.get_provider_options()[PROVIDERS["cuda"]]["sdpa_kernel"] == "19"


def test_a_folder_goes_to_the_gpu_by_itself_where_it_has_a_quant_for_it(exported, folder):
    assert (Embedder(exported).quant, Embedder(exported).provider) == ("fp16", PROVIDERS["cuda"])
    assert Embedder(exported, quant="fp32").provider == PROVIDERS["cpu"]
    assert Embedder(folder).provider == PROVIDERS["cpu"]


def test_float32_would_be_left_to_the_cpu_in_part_and_is_refused(exported):
    with pytest.raises(ProviderError, match="whole on CUDAExecutionProvider: GroupQueryAttention"):
        load_graph(exported / "onnx/model.onnx", PROVIDERS["cuda"])
    with pytest.raises(ProviderError, match="fp16, q4f16 do"):
        Embedder(exported, quant="fp32", provider="cuda")


@pytest.mark.parametrize("quant", CUDA_ORDER)
def test_a_pair_alone_and_in_a_batch_has_the_same_score_on_a_gpu(reranker, quant):
    model = Reranker(reranker, quant=quant)
    pairs = [("which one is long?", text or "empty") for text in TEXTS]
    alone = [model.score([pair])[0] for pair in pairs]
    assert model.provider == PROVIDERS["cuda"]
    np.testing.assert_allclose(model.score(pairs), alone, atol=MAX_BATCH_SCORE_DELTA)


def test_a_gpu_that_is_full_gets_halves_of_a_batch(exported):
    """PyTorch takes the rest of the GPU's memory behind onnxruntime's back."""
    model = Embedder(exported, quant="fp16", provider="cuda")
    texts = [f"{number} " + "word " * 400 for number in range(64)]
    expected = model.encode(texts, batch_tokens=1)
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(free - ROOM, dtype=torch.uint8, device="cuda")
    many = pad([item.ids for item in model.tokenizer.encode(texts)] * 40, 0)
    with pytest.raises(Exception, match=NO_MEMORY):
        model._runner.session().run(["sentence_embedding"], many)
    found = model.encode(texts * 40, batch_tokens=2_000_000)
    del taken
    torch.cuda.empty_cache()
    assert (found * np.tile(expected, (40, 1))).sum(axis=1).min() >= MIN_BATCH_COSINE
    assert (model.encode(texts) * expected).sum(axis=1).min() >= MIN_BATCH_COSINE
