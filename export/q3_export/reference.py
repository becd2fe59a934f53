"""PyTorch fp32 vectors and scores, computed by transformers' own layers with one of them in memory at a time.

Each text is run alone, without padding, so that the reference depends on nothing but the text.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from q3_export.checkpoint import Checkpoint
from q3_export.float32 import in_float32

if TYPE_CHECKING:  # transformers' model takes seconds to import: when it is needed
    from transformers import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer


class Observer(Protocol):
    """Looks on."""

    row: int

    def watching(self, layer: "Qwen3DecoderLayer") -> AbstractContextManager[None]:
        """Entered before the rows run through ``layer``, left after."""
        ...


@torch.inference_mode()
def embed(
    checkpoint: Checkpoint,
    ids: Sequence[Sequence[int]],
    *,
    observers: Sequence[Observer] = (),
    device: str = "cpu",
    progress: bool = False,
) -> npt.NDArray[np.float32]:
    """Unit vectors of N token sequences, float32 [N, D]; arguments as for :func:`last_states`."""
    states = last_states(checkpoint, ids, observers=observers, device=device, progress=progress)
    return torch.nn.functional.normalize(states, dim=-1).numpy()


@in_float32()
@torch.inference_mode()
def log_odds(
    checkpoint: Checkpoint,
    ids: Sequence[Sequence[int]],
    *,
    observers: Sequence[Observer] = (),
    device: str = "cpu",
    progress: bool = False,
) -> npt.NDArray[np.float32]:
    """logit(yes) − logit(no) behind the last token of N sequences, float32 [N, 1]; arguments as for :func:`last_states`."""
    states = last_states(checkpoint, ids, observers=observers, device=device, progress=progress)
    logits = states @ checkpoint.head().T
    return (logits[:, :1] - logits[:, 1:]).numpy()


RUN = {"embedding": embed, "reranker": log_odds}
"""Kind of a model → what the reference computes for it."""


@in_float32()
@torch.inference_mode()
def expected_seconds(checkpoint: Checkpoint, tokens: int, device: str = "cpu") -> float:
    """How long ``tokens`` take in the layers' matrix products, by the speed of a part of one of them now."""
    states, weight = (torch.ones(rows, checkpoint.dims, device=device) for rows in (512, 4096))
    took = min(_timed(lambda: float((states @ weight.T)[0, 0])) for _ in range(3))
    return took * tokens / len(states) * (checkpoint.weights - checkpoint.table_weights) / weight.numel()


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@in_float32()
@torch.inference_mode()
def last_states(
    checkpoint: Checkpoint,
    ids: Sequence[Sequence[int]],
    *,
    observers: Sequence[Observer] = (),
    device: str = "cpu",
    progress: bool = False,
) -> torch.Tensor:
    """Hidden states of the last tokens, behind the final norm, float32 [N, D] on the CPU.

    Equal to ``AutoModel`` loaded whole in float32.

    Args:
        checkpoint: where the weights come from.
        ids: token ids of each text.
        observers: told the row that runs, and shown each layer while all rows run through it.
        device: where to compute, ``cpu`` or ``cuda``.
        progress: a progress bar over the layers.

    Raises:
        ProviderError: the GPU's memory is full.
    """
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, Qwen3RotaryEmbedding

    config = checkpoint.config
    config._attn_implementation = "sdpa"
    table = checkpoint.tensor("embed_tokens.weight")  # mapped: only the rows of these ids are read
    states = [table[torch.tensor(row)].to(device, torch.float32)[None] for row in ids]  # each [1, T, D]
    rotary = Qwen3RotaryEmbedding(config).to(device)
    positions = [torch.arange(state.shape[1], device=device)[None] for state in states]
    for number in tqdm(range(checkpoint.layers), "PyTorch reference", unit="layer", disable=not progress):
        layer = _layer(checkpoint, config, number, device)
        with ExitStack() as watching:
            for observer in observers:
                watching.enter_context(observer.watching(layer))
            for row, state in enumerate(states):
                for observer in observers:
                    observer.row = row
                states[row] = layer(
                    state,
                    attention_mask=None,  # one text, no padding: causal by itself
                    position_ids=positions[row],
                    position_embeddings=rotary(state, positions[row]),
                )
        del layer  # before the next one is read
    norm = Qwen3RMSNorm(checkpoint.dims, eps=config.rms_norm_eps).to(device)
    norm.weight.data = checkpoint.float32("norm.weight").to(device)
    return torch.cat([norm(state)[:, -1] for state in states]).cpu()


def _layer(checkpoint: Checkpoint, config: "Qwen3Config", number: int, device: str) -> "Qwen3DecoderLayer":
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

    with torch.device("meta"):
        layer = Qwen3DecoderLayer(config, number).eval()
    weights = {name: checkpoint.float32(f"layers.{number}.{name}").to(device) for name in layer.state_dict()}
    layer.load_state_dict(weights, assign=True)
    return layer
