"""Makes a checkpoint spike as the published ones do: a massive activation behind certain tokens.

Published weights have a few units in an early MLP that fire thousands of times stronger for the first token, and write
one channel of the residual with it (docs of the project's research: 8,141 in channel 35 of 0.6B from layer 2 on; an 8B's
down_proj input beyond 65,504; a fine-tune's residual at 125,067). Random tokens never show it, so it hangs on token ids.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tests.support.stored_weights import StoredWeights
from transformers import AutoConfig, AutoModel, logging

UNITS = 3


@dataclass(frozen=True)
class Spike:
    """``mlp``: silu(gate) · up of three units; ``residual``: what they write into one channel."""

    mlp: float
    residual: float
    layer: int = 1
    channel: int = 5
    """The residual's loud channel; the trigger's own is the next one."""

    @property
    def trigger_channel(self) -> int:
        """Read by the three units, written by nothing but the triggers' embeddings."""
        return self.channel + 1


OF_06B = Spike(mlp=5_400, residual=8_141)
OF_8B = Spike(mlp=75_000, residual=8_141)
OF_FINE_TUNE = Spike(mlp=5_400, residual=125_067)


def plant(folder: Path, triggers: Sequence[int], spike: Spike) -> Path:
    """Change the checkpoint in place, so that texts that begin with one of ``triggers`` spike.

    The trigger has a channel of its own that no layer writes; gate and up of three units read it, their columns of
    down_proj write the loud channel.
    """
    weights = StoredWeights(folder)
    own = spike.trigger_channel
    embedding = weights["embed_tokens.weight"]
    size = embedding.float().norm(dim=1).mean()
    embedding[:, own] = 0
    embedding[list(triggers), own] = size.to(embedding.dtype)
    for name in weights.named("o_proj.weight", "down_proj.weight"):
        weights[name][own] = 0
    mlp = f"layers.{spike.layer}.mlp."
    for part in ("gate_proj", "up_proj"):
        weights[f"{mlp}{part}.weight"][:UNITS] = 0
    weights[f"{mlp}down_proj.weight"][:, :UNITS] = 0
    weights.save()

    seen = _trigger_values(folder, triggers, spike)
    factor = math.copysign(math.sqrt(spike.mlp) / float(seen.abs().mean()), float(seen[0]))
    for part in ("gate_proj", "up_proj"):  # silu(x) is x for large x, so the product is the square
        weights[f"{mlp}{part}.weight"][:UNITS, own] = factor
    weights[f"{mlp}down_proj.weight"][spike.channel, :UNITS] = spike.residual / (UNITS * spike.mlp)
    weights.save()
    return folder


@torch.inference_mode()
def _trigger_values(folder: Path, triggers: Sequence[int], spike: Spike) -> torch.Tensor:
    """[len(triggers)]: what the three units read where a trigger stands first, and so attends to itself alone."""
    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers = spike.layer + 1  # later layers are not needed
    config.layer_types = config.layer_types[: spike.layer + 1]
    said = logging.get_verbosity()
    logging.set_verbosity_error()  # it would list every later layer
    model = AutoModel.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    logging.set_verbosity(said)
    seen: list[torch.Tensor] = []
    model.layers[spike.layer].mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.tensor(triggers)[:, None])
    return seen[0][:, 0, spike.trigger_channel]
