"""What the tests of the runtime share."""

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
