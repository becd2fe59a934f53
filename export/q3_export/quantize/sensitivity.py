"""What each linear loses when it is quantized, read off while the reference runs over the calibration texts."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from q3_export.quantize.formats import FORMATS, Format
from q3_export.quantize.rounding import error
from q3_export.quantize.smoothing import ALONE, PAIRS, Smoothing, best_scales

TOKENS_PER_TEXT = 8
"""Sampled of each text, the first, where a massive activation stands, and the last, which is pooled, among them."""


@dataclass
class Inputs:
    """Of one linear: sampled tokens, and each channel's largest value and sum of squares, every token divided by its rms."""

    sample: list[torch.Tensor] = field(default_factory=list)
    largest: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    peak: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    """Each channel's largest |x| as it is."""
    tokens: int = 0

    def add(self, states: torch.Tensor) -> None:
        """One text, [T, K]."""
        rms = states.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)
        self.largest = torch.maximum(self.largest, (states / rms).abs().amax(0))
        self.squares = self.squares + (states / rms).square().sum(0)
        self.peak = torch.maximum(self.peak, states.abs().amax(0))
        self.tokens += len(states)
        count = min(TOKENS_PER_TEXT, len(states))
        self.sample.append(states[torch.linspace(0, len(states) - 1, count).long()])


@dataclass
class Plan:
    """How one quant's linears are to be made: what is folded, each one's importance, and what each costs.

    ``narrow`` and ``wide``: what a linear, name without ``.weight``, costs in the format of the recipe and in the wider one:
    its relative squared error times the mean square of what its half of the layer, attention or MLP, adds to the last
    token's hidden state. So they are comparable between layers: all add to one state, of which the vector is made.
    """

    form: Format
    wider: Format
    smoothing: Smoothing = field(default_factory=Smoothing)
    importance: dict[str, torch.Tensor] = field(default_factory=dict)
    narrow: dict[str, float] = field(default_factory=dict)
    wide: dict[str, float] = field(default_factory=dict)
    mlp: list[float] = field(default_factory=list)
    """Largest input of each layer's down_proj, once folded: what float16 needs to know."""


class Sensitivity:
    """Fills a :class:`Plan` for each pair of formats while the reference runs. Watches rows from ``first_row`` on."""

    def __init__(self, forms: Iterable[tuple[str, str]], first_row: int) -> None:
        self.plans = {names: Plan(FORMATS[names[0]], FORMATS[names[1]]) for names in sorted(set(forms))}
        self.first_row = first_row
        self.row = 0
        self._layer = 0

    @contextmanager
    def watching(self, layer: Qwen3DecoderLayer) -> Iterator[None]:
        """Look at one decoder layer while it runs, and judge its linears when it is done."""
        if not self.plans:
            yield
            return
        seen = {pair.takers: Inputs() for pair in PAIRS} | {(ALONE,): Inputs()}
        added: dict[str, list[float]] = {"self_attn": [], "mlp": []}
        with ExitStack() as hooks:
            for half, sizes in added.items():
                hooks.callback(layer.get_submodule(half).register_forward_hook(self._measurer(sizes)).remove)
            for takers, inputs in seen.items():
                handle = layer.get_submodule(takers[0]).register_forward_pre_hook(self._collector(inputs))
                hooks.callback(handle.remove)
            yield
        for plan in self.plans.values():
            self._judge(layer, seen, added, plan)
        self._layer += 1

    def _collector(self, inputs: Inputs) -> Any:
        def collect(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            if self.row >= self.first_row:
                inputs.add(args[0][0])

        return collect

    def _measurer(self, sizes: list[float]) -> Any:
        def measure(_: torch.nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            if self.row >= self.first_row:
                states = output[0] if isinstance(output, tuple) else output  # [1, T, D]
                sizes.append(float(states[0, -1].square().mean()))

        return measure

    def _judge(
        self, layer: Qwen3DecoderLayer, seen: dict[tuple[str, ...], Inputs], added: dict[str, list[float]], plan: Plan
    ) -> None:
        prefix = f"layers.{self._layer}."
        pairs = {pair.takers: pair for pair in PAIRS}
        for takers, inputs in seen.items():
            sample, importance = torch.cat(inputs.sample), inputs.squares / inputs.tokens
            weights, peak = [layer.get_submodule(name).weight.data for name in takers], inputs.peak
            if takers in pairs:
                alpha, scales, errors = best_scales(sample, inputs.largest, weights, plan.form, importance)
                if alpha:
                    plan.smoothing.fold(self._layer, pairs[takers], scales.cpu(), alpha)
                    sample, importance, peak = sample / scales, importance / scales**2, peak / scales
                    weights = [weight * scales for weight in weights]
            else:
                errors = [error(sample, weight, plan.form, importance) for weight in weights]
            half = takers[0].split(".")[0]
            size = sum(added[half]) / len(added[half])
            for name, weight, lost in zip(takers, weights, errors, strict=True):
                plan.narrow[prefix + name] = lost * size
                plan.wide[prefix + name] = error(sample, weight, plan.wider, importance) * size
                plan.importance[prefix + name] = importance.cpu()
            if takers == PAIRS[-1].takers:
                plan.mlp.append(float(peak.max()))
