"""transformers, as sentence-transformers runs it; the variant is the dtype."""

from collections.abc import Callable
from pathlib import Path

from padding import padded, pooled


def make(checkpoint: Path, variant: str, folder: Path, calibration: list[list[int]]) -> None:
    """The checkpoint is all it needs."""


def load(checkpoint: Path, variant: str, folder: Path, threads: int) -> Callable:  # noqa: ARG001
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(checkpoint, dtype=getattr(torch, variant)).eval()

    @torch.inference_mode()
    def run(rows):
        ids, mask = padded(rows)
        states = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), use_cache=False).last_hidden_state
        return pooled(states.float().numpy(), mask)

    return run
