"""What each linear loses when it is quantized, read off while the reference runs over the calibration texts."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from q3_export.quantize.formats import FORMATS, Format
from q3_export.quantize.rounding import as_computed, rounded
from q3_export.quantize.smoothing import ALONE, ALPHAS, PAIRS, Smoothing, best_scales

if TYPE_CHECKING:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

TOKENS_PER_TEXT = 8
"""Sampled of each text, the first, where a massive activation stands, and the last, which is pooled, among them."""
TEXTS = 12
"""On which a half of a layer is run with one linear quantized, evenly spaced among the calibration texts."""
LONGEST = 48
"""Of such a text, the first tokens: a causal layer does not miss the others."""


def work(texts: int) -> int:
    """What one plan costs, in tokens through the model: linears in two formats and what is behind them, and every α."""
    return min(TEXTS, texts) * LONGEST * 5 + texts * TOKENS_PER_TEXT * (len(ALPHAS) + 2)


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


@dataclass(frozen=True)
class Texts:
    """What half of a layer got: hidden states [B, T, D], zeros behind a shorter text, which a causal layer does not look at."""

    states: torch.Tensor
    real: torch.Tensor
    """[B, T], True where there is a token."""
    rotary: tuple[torch.Tensor, torch.Tensor]
    """Cosines and sines of the positions, [1, T, head_dim]."""

    @classmethod
    def padded(cls, states: list[torch.Tensor], rotary: tuple[torch.Tensor, torch.Tensor]) -> "Texts":
        """Of texts [T', D] each."""
        lengths = torch.tensor([len(text) for text in states], device=states[0].device)
        filled = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        return cls(filled, torch.arange(filled.shape[1], device=lengths.device) < lengths[:, None], rotary)

    def added(self, layer: "Qwen3DecoderLayer", half: str) -> torch.Tensor:
        """What ``half``, self_attn or mlp, adds to the hidden states, [B, T, D]."""
        if half == "mlp":
            found: torch.Tensor = layer.mlp(layer.post_attention_layernorm(self.states))
            return found
        normed = layer.input_layernorm(self.states)
        found, _ = layer.self_attn(hidden_states=normed, position_embeddings=self.rotary, attention_mask=None)
        return found


@dataclass
class Plan:
    """How one quant's linears are to be made: what is folded, each one's importance, and what each costs.

    ``narrow`` and ``wide``: what a linear, name without ``.weight``, costs in the format of the recipe and in the wider one:
    the mean over tokens of ‖error‖² / ‖hidden state‖², where the error is that of what its half of the layer, attention or
    MLP, adds to the hidden state. Norms read that state, so a relative error is what later layers pass on, and the costs
    of all linears are comparable; half their sum is about 1 − cosine of the vectors.
    """

    form: Format
    wider: Format
    smoothing: Smoothing = field(default_factory=Smoothing)
    importance: dict[str, torch.Tensor] = field(default_factory=dict)
    narrow: dict[str, float] = field(default_factory=dict)
    wide: dict[str, float] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    """How many a linear has."""
    mlp: list[float] = field(default_factory=list)
    """Largest input of each layer's down_proj, once folded: what float16 needs to know."""


class Sensitivity:
    """Fills a :class:`Plan` for each pair of formats while the reference runs. Watches ``rows``, the calibration texts."""

    def __init__(self, forms: Iterable[tuple[str, str]], rows: range) -> None:
        self.plans = {names: Plan(FORMATS[names[0]], FORMATS[names[1]]) for names in sorted(set(forms))}
        self.rows = rows
        self.row = 0
        self._layer = 0

    @contextmanager
    def watching(self, layer: "Qwen3DecoderLayer") -> Iterator[None]:
        """Look at one decoder layer while it runs, and judge its linears when it is done."""
        if not self.plans:
            yield
            return
        seen = {pair.takers: Inputs() for pair in PAIRS} | {(ALONE,): Inputs()}
        texts: list[torch.Tensor] = []
        rotary: list[tuple[torch.Tensor, torch.Tensor]] = []
        with ExitStack() as hooks:
            hooks.callback(layer.register_forward_pre_hook(self._text_collector(texts, rotary), with_kwargs=True).remove)
            for takers, inputs in seen.items():
                handle = layer.get_submodule(takers[0]).register_forward_pre_hook(self._collector(inputs))
                hooks.callback(handle.remove)
            yield
        batch = Texts.padded(texts, max(rotary, key=lambda found: found[0].shape[1]))
        with _remembering([layer.get_submodule(name) for takers in seen for name in takers]):
            for plan in self.plans.values():
                self._judge(layer, seen, batch, plan)
        self._layer += 1

    def _collector(self, inputs: Inputs) -> Any:
        def collect(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            if self.row in self.rows:
                inputs.add(args[0][0])

        return collect

    def _text_collector(self, texts: list[torch.Tensor], rotary: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
        def collect(_: torch.nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> None:
            if self.row in self.rows[:: max(1, len(self.rows) // TEXTS)][:TEXTS]:
                cos, sin = kwargs["position_embeddings"]
                texts.append(args[0][0, :LONGEST])
                rotary.append((cos[:, :LONGEST], sin[:, :LONGEST]))

        return collect

    def _judge(self, layer: "Qwen3DecoderLayer", seen: dict[tuple[str, ...], Inputs], texts: Texts, plan: Plan) -> None:
        prefix = f"layers.{self._layer}."
        pairs = {pair.takers: pair for pair in PAIRS}
        later = replace(texts, states=texts.states + texts.added(layer, "self_attn"))
        halves = {"self_attn": _Half(layer, "self_attn", texts), "mlp": _Half(layer, "mlp", later)}
        for takers, inputs in seen.items():
            importance, peak, scales = inputs.squares / inputs.tokens, inputs.peak, torch.ones_like(inputs.peak)
            if takers in pairs:
                weights = [layer.get_submodule(name).weight.data for name in takers]
                sample = torch.cat(inputs.sample)
                alpha, scales = best_scales(sample, inputs.largest, weights, plan.form, importance)
                if alpha:
                    plan.smoothing.fold(self._layer, pairs[takers], scales.cpu(), alpha)
                    importance, peak = importance / scales**2, peak / scales
            half = halves[takers[0].split(".")[0]]
            for name in takers:
                plan.importance[prefix + name] = importance.cpu()
                plan.weights[prefix + name] = layer.get_submodule(name).weight.numel()
                for costs, form in ((plan.narrow, plan.form), (plan.wide, plan.wider)):
                    costs[prefix + name] = 0.0
                    if form.bits:
                        with _quantized(layer.get_submodule(name), form, scales, importance):
                            costs[prefix + name] = half.error()
            if takers == PAIRS[-1].takers:
                plan.mlp.append(float(peak.max()))


class _Half:
    """One half of a layer, and what it adds to the texts' hidden states as long as nothing in it is quantized."""

    def __init__(self, layer: "Qwen3DecoderLayer", name: str, texts: Texts) -> None:
        self.layer, self.name, self.texts = layer, name, texts
        self.exact = texts.added(layer, name)

    def error(self) -> float:
        """Mean over all tokens of ‖error of what it adds now‖² / ‖hidden state with it‖²."""
        difference = self.texts.added(self.layer, self.name) - self.exact
        shares = difference.square().sum(-1) / (self.texts.states + self.exact).square().sum(-1).clamp_min(1e-30)
        return float(shares[self.texts.real].mean())


@contextmanager
def _quantized(linear: torch.nn.Module, form: Format, scales: torch.Tensor, importance: torch.Tensor) -> Iterator[None]:
    """The linear computes as its kernel of this format will, ``scales`` [K] folded out of its input and into its weight."""
    weight = rounded(linear.get_parameter("weight").data * scales, form, importance)
    exact = linear.forward
    linear.forward = lambda states: torch.nn.functional.linear(
        as_computed((states / scales).flatten(0, 1), form).view_as(states), weight
    )
    try:
        yield
    finally:
        linear.forward = exact


@contextmanager
def _remembering(linears: list[torch.nn.Module]) -> Iterator[None]:
    """Linears that get what they got before do not compute: whichever one is quantized, most of its half is as it was."""
    for linear in linears:
        linear.forward = _Memory(linear.forward)
    try:
        yield
    finally:
        for linear in linears:
            del linear.forward


class _Memory:
    """A function that knows what it gave first, when nothing was quantized."""

    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.compute = compute
        self.known: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        if self.known and torch.equal(self.known[0], states):
            return self.known[1]
        found = self.compute(states)
        self.known = self.known or (states, found)
        return found
