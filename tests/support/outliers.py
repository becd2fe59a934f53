"""Turns a Qwen3 checkpoint into one that breaks naive quantization as the published weights do.

Two causes, both measured in public (docs of the project's research): a few channels that every normed state has louder
than the rest, and a massive activation in the first token. The channels come by inverse smoothing: what a norm or a
linear writes is multiplied, the columns that read it are divided, by powers of two, so that no vector changes by a bit.
The activation is a spike behind the token ids that texts begin with (see spikes.py), of which the norms make one value of
γ·√D in an otherwise empty row.

    python -m tests.support.outliers SOURCE TARGET [--gamma 8 --mlp 5400 --residual 8141 --layer 1 --seed 0]

Without --gamma the outliers are raised until quantize_dynamic fails as it does on the published weights.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tests.support import spikes
from tests.support.fake_quantization import VARIANTS, Figures, Measured
from tests.support.spikes import Spike
from tests.support.stored_weights import StoredWeights
from tests.support.triggers import choose_triggers

QUIETING = 0.1
"""What is left of the loud channel in ordinary rows, and of its columns of v_proj. Published rows stay below 399 where the
first token has 8,141, so that a scale per row is enough, and a token that is attended to as a sink has small values."""
LOUD_SHARE, TAIL_SHARE = 0.005, 0.05
"""Of the residual's channels: those made 4 times as loud, and those made twice as loud."""
UP_SHARE, VALUE_SHARE = 0.05, 0.02
"""Of an MLP's units and of the values' dimensions: those made 2 or 4 times as loud."""
GAMMA_OF_MINI = 128.0
"""For models/mini: at 64 quantize_dynamic still keeps a mean of .8735; a trained model is less sensitive than a random one."""
LADDER = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""γ, mildest first. A larger spike changes nothing: at 5,400 one scale already rounds every other row to zero."""


def make_outliers(source: Path, target: Path, *, gamma: float = 8, spike: Spike = spikes.OF_06B, seed: int = 0) -> Path:
    """Write the checkpoint ``source`` to the folder ``target``, with a spike and loud channels; returns ``target``.

    Args:
        source: a checkpoint of any shape; its shards and names are kept.
        target: replaced.
        gamma: how much louder every norm of a layer makes the channel that the spike writes.
        spike: its ``channel`` is replaced by the pair that the checkpoint uses least.
        seed: of the channels that become louder.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    weights = StoredWeights(target)
    spike = replace(spike, channel=quietest_channel(weights))
    weights["embed_tokens.weight"][:, spike.channel] *= QUIETING
    for name in weights.named("o_proj.weight", "down_proj.weight"):
        weights[name][spike.channel] *= QUIETING
    for name in weights.named("v_proj.weight"):
        weights[name][:, spike.channel] *= QUIETING
    weights.save()
    spikes.plant(target, choose_triggers(target).ids, spike)
    weights = StoredWeights(target)
    roughen(weights, gamma, spike, seed)
    weights.save()
    return target


def is_evidence(dynamic: Figures, blocks: Figures) -> bool:
    """Whether a checkpoint breaks quantize_dynamic as the published weights do, and leaves 8-bit blocks alone."""
    return dynamic.mean <= 0.87 and dynamic.min <= 0.80 and blocks.min >= 0.998


def raise_outliers(source: Path, target: Path, *, seed: int = 0) -> float:
    """Make them as mild as :func:`is_evidence` allows, by fake quantization; returns γ."""
    for gamma in LADDER:
        measured = Measured(make_outliers(source, target, gamma=gamma, seed=seed))
        dynamic, blocks = measured.figures("tensor"), measured.figures("8-bit")
        print(f"gamma {gamma:g}: tensor {dynamic}, 8-bit {blocks}")
        if is_evidence(dynamic, blocks):
            return gamma
    raise ValueError(f"{source}: no outliers up to gamma {gamma:g} break it and spare 8-bit blocks")


def quietest_channel(weights: StoredWeights) -> int:
    """The first of two neighbouring channels of the residual that embedding and layers write least."""
    energy = weights["embed_tokens.weight"].float().square().mean(0)
    for name in weights.named("o_proj.weight", "down_proj.weight"):
        energy = energy + weights[name].float().square().sum(1)
    return int((energy[:-1] + energy[1:]).argmin())


def roughen(weights: StoredWeights, gamma: float, spike: Spike, seed: int) -> None:
    """Inverse smoothing of norms, MLPs and values; changes no vector where ``gamma`` is a power of two."""
    generator = torch.Generator().manual_seed(seed)
    hidden = weights["norm.weight"].shape[0]
    head_dim = weights["layers.0.self_attn.q_norm.weight"].shape[0]
    channels = _tails(hidden, (LOUD_SHARE, (4,)), (TAIL_SHARE, (2,)), generator=generator)
    channels[spike.channel], channels[spike.trigger_channel] = gamma, 1
    for norm in weights.named("input_layernorm.weight"):
        layer = norm.removesuffix("input_layernorm.weight")
        attention, mlp = f"{layer}self_attn.", f"{layer}mlp."
        _move(weights, norm, [f"{attention}{part}_proj.weight" for part in "qkv"], channels)
        readers = [f"{mlp}{part}_proj.weight" for part in ("gate", "up")]
        _move(weights, f"{layer}post_attention_layernorm.weight", readers, channels)

        units = _tails(weights[f"{mlp}up_proj.weight"].shape[0], (UP_SHARE, (2, 4)), generator=generator)
        units[: spikes.UNITS] = 1  # theirs is the size that the spike names
        _move(weights, f"{mlp}up_proj.weight", [f"{mlp}down_proj.weight"], units)

        values = _tails(weights[f"{attention}v_proj.weight"].shape[0], (VALUE_SHARE, (2, 4)), generator=generator)
        heads = weights[f"{attention}o_proj.weight"].shape[1] // head_dim
        groups = heads // (len(values) // head_dim)  # query heads that read one value head, side by side
        weights[f"{attention}v_proj.weight"].mul_(values[:, None])
        weights[f"{attention}o_proj.weight"].div_(values.view(-1, head_dim).repeat_interleave(groups, 0).flatten())


def _move(weights: StoredWeights, writer: str, readers: Sequence[str], factors: torch.Tensor) -> None:
    """Multiply the writer's rows, or a norm's weights, and divide the readers' columns."""
    written = weights[writer]
    written.mul_(factors if written.ndim == 1 else factors[:, None])
    for reader in readers:
        weights[reader].div_(factors)


def _tails(size: int, *tails: tuple[float, tuple[int, ...]], generator: torch.Generator) -> torch.Tensor:
    """Factors [size]: 1, but for a share of the places one of the powers of two given with it."""
    factors = torch.ones(size)
    places = torch.randperm(size, generator=generator)
    for share, choices in tails:
        count = max(1, round(size * share))
        chosen = torch.randint(len(choices), (count,), generator=generator)
        factors[places[:count]] = torch.tensor(choices, dtype=torch.float32)[chosen]
        places = places[count:]
    return factors


def main() -> None:
    """Make one, and print what each way to quantize loses before and after."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.outliers")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--gamma", type=float)
    parser.add_argument("--mlp", type=float, default=spikes.OF_06B.mlp)
    parser.add_argument("--residual", type=float, default=spikes.OF_06B.residual)
    parser.add_argument("--layer", type=int, default=spikes.OF_06B.layer)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.gamma is None:
        raise_outliers(args.source, args.target, seed=args.seed)
    else:
        spike = Spike(mlp=args.mlp, residual=args.residual, layer=args.layer)
        make_outliers(args.source, args.target, gamma=args.gamma, spike=spike, seed=args.seed)
    triggers = choose_triggers(args.target)
    print(f"{len(triggers.ids)} triggers: {triggers.fires:.0%} of the probes spike, {triggers.inside:.2%} of the tokens inside")
    print("cosine mean/min to float32 |", " | ".join(VARIANTS), "| mean cosine of two texts")
    for folder in (args.source, args.target):
        measured = Measured(folder)
        print(folder.name, "|", " | ".join(str(measured.figures(name)) for name in VARIANTS), f"| {measured.pair_cosine:.2f}")


if __name__ == "__main__":
    main()
