"""What the tests of the runtime share."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> SimpleNamespace:
    """``ids(text, **options)`` and ``vector(text, **options)`` of transformers in PyTorch fp32."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    network = transformers.AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def ids(text: str, **options: Any) -> list[int]:
        return tokenizer(text, **options)["input_ids"]

    def vector(text: str, **options: Any) -> np.ndarray:
        rows = torch.tensor([ids(text, **options)])
        with torch.no_grad():
            hidden = network(input_ids=rows, attention_mask=torch.ones_like(rows)).last_hidden_state
        return torch.nn.functional.normalize(hidden[0, -1], dim=0).numpy()

    return SimpleNamespace(ids=ids, vector=vector)


@pytest.fixture(scope="session")
def sure_reranker_folder(reranker_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its fp32 with log-odds 1,000 times as large: in float32 the probabilities of many documents are all 1, or all 0."""
    import onnx
    from tests.support.signing import sign

    from q3_runtime.tensorfile import read_header

    copy = Path(shutil.copytree(reranker_folder, tmp_path_factory.mktemp("exports") / "sure"))
    graph = onnx.load(copy / "onnx/model.onnx", load_external_data=False).graph
    (head,) = (tensor for tensor in graph.initializer if tensor.name == "score_head.weight")
    place = {entry.key: entry.value for entry in head.external_data}
    golden = read_header(copy / "golden.safetensors")["logit"]
    for path, start, shape in [
        (copy / "onnx" / place["location"], int(place["offset"]), tuple(head.dims)),
        (copy / "golden.safetensors", golden.start, tuple(golden.shape)),
    ]:
        values = np.memmap(path, dtype="<f4", mode="r+", offset=start, shape=shape)
        values *= 1000
        values.flush()
    return sign(copy)
