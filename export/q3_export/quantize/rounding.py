"""Float weights → whole numbers and scales, and what that costs.

A weight is [N, K], out and in, as a checkpoint keeps it. Quantized it is whole numbers in [−2ᵇ⁻¹, 2ᵇ⁻¹) and float32 scales
[N, K / block]; weight ≈ number · scale. Activations are quantized symmetrically to 8 bits over the same stretch of a token
as one scale of the weight covers, as onnxruntime's kernels do at run time.
"""

import torch

from q3_export.quantize.formats import Format

SCALE_STEPS = tuple(0.70 + 0.05 * step for step in range(8))
"""Scales that are tried for a 4-bit block, as shares of the one that represents its largest value."""
CHUNK = 1 << 18
"""Values that are rounded at a time: what is computed on the way stays in a core's cache, which is 8 times as fast."""


def quantized(weight: torch.Tensor, form: Format, importance: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers [N, K', block] int8 and scales [N, K'] float32, K' = ⌈K / block⌉ stretches with one scale each.

    8 bits are rounded to nearest. 4 bits take, block by block, the scale with the least squared error, every column weighted
    by ``importance``; the winner is then fitted to its numbers by least squares. A row does not depend on the others.

    Args:
        weight: [N, K] float32. A last block that is not full is filled with zeros.
        form: a row with bits.
        importance: [K], mean square of each input channel; None: all alike.
    """
    rounding = _nearest if form.bits == 8 else _least_squares
    parts = [rounding(_blocks(rows, form.block), form, importance) for rows in _pieces(weight)]
    return torch.cat([numbers for numbers, _ in parts]), torch.cat([scales for _, scales in parts])


def _nearest(blocks: torch.Tensor, _: Format, __: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    scales = _largest(blocks) / 127
    return (blocks / scales).round_().to(torch.int8), scales.squeeze(-1)


def _least_squares(blocks: torch.Tensor, form: Format, importance: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Of numbers n for values x with weights w the best scale is Σwxn / Σwn², and its squared error Σwx² − (Σwxn)² / Σwn²."""
    lowest, highest = -(1 << form.bits - 1), (1 << form.bits - 1) - 1
    weights = torch.ones_like(blocks[:1]) if importance is None else _blocks(importance[None], form.block)
    weighted = weights * blocks
    peak = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    peak = torch.where(peak == 0, torch.full_like(peak, -1e-12), peak)
    most, scales = torch.zeros_like(peak), torch.ones_like(peak)
    numbers, product = torch.empty_like(blocks), torch.empty_like(blocks)
    for step in SCALE_STEPS:
        for end in (lowest, highest):  # the largest value may sit at either end of the uneven range
            torch.mul(blocks, end / step / peak, out=numbers).round_().clamp_(lowest, highest)
            covered = torch.mul(weighted, numbers, out=product).sum(-1, keepdim=True)
            squares = torch.mul(numbers, numbers, out=product).mul_(weights).sum(-1, keepdim=True).clamp_min_(1e-30)
            saved = covered.square() / squares
            better = saved > most
            most, scales = torch.where(better, saved, most), torch.where(better, covered / squares, scales)
    return (blocks / scales).round_().clamp_(lowest, highest).to(torch.int8), scales.squeeze(-1)


def restored(numbers: torch.Tensor, scales: torch.Tensor, columns: int) -> torch.Tensor:
    """The weight that a kernel computes with, [N, columns] float32."""
    return (numbers * scales[..., None]).flatten(1)[:, :columns]


def packed(numbers: torch.Tensor, form: Format) -> torch.Tensor:
    """[N, K', block] as uint8 around its middle, [N, K', block · bits / 8]; the first of two 4-bit numbers is low."""
    raised = (numbers.to(torch.int16) + (1 << form.bits - 1)).to(torch.uint8)
    return raised if form.bits == 8 else raised[..., ::2] | raised[..., 1::2] << 4


def as_computed(activations: torch.Tensor, form: Format) -> torch.Tensor:
    """Activations [M, K] after the rounding that the kernel of this format applies to them."""
    if not form.bits:
        return activations
    blocks = _blocks(activations, form.block)
    scales = _largest(blocks) / 127
    return ((blocks / scales).round_() * scales).flatten(1)[:, : activations.shape[1]]


def rounded(weight: torch.Tensor, form: Format, importance: torch.Tensor | None = None) -> torch.Tensor:
    """The weight [N, K] after a round trip through the format; itself for floats."""
    if not form.bits:
        return weight
    return torch.cat([restored(*quantized(rows, form, importance), weight.shape[1]) for rows in _pieces(weight)])


def error(computed: torch.Tensor, weight: torch.Tensor, exact: torch.Tensor, form: Format, importance: torch.Tensor) -> float:
    """Mean over tokens of ‖error‖² / ‖output‖²: relative to each token, or one massive token would hide all others.

    Args:
        computed: activations [M, K] as the kernel rounds them, see :func:`as_computed`.
        weight: [N, K], not yet rounded.
        exact: what they would give, [M, N], if nothing were rounded.
        form: how the weight will be stored.
        importance: [K], mean square of each input channel.
    """
    difference = computed @ rounded(weight, form, importance).T - exact
    return float((difference.square().sum(-1) / exact.square().sum(-1).clamp_min(1e-30)).mean())


def _pieces(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Some rows at a time."""
    return torch.split(weight, max(1, CHUNK // weight.shape[1]))


def _blocks(values: torch.Tensor, block: int) -> torch.Tensor:
    """[N, K] → [N, K', block], zeros behind the last; a block of 0 is the whole row."""
    columns = values.shape[1]
    block = block or columns
    filled = torch.nn.functional.pad(values, (0, -columns % block))
    return filled.reshape(values.shape[0], -1, block)


def _largest(blocks: torch.Tensor) -> torch.Tensor:
    return blocks.abs().amax(-1, keepdim=True).clamp_min(1e-12)
