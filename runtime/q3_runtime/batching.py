"""Token ids of many texts → right-padded batches of similar length, within a budget of tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from q3_runtime.memory import SHORT_TOKENS


class Budget(NamedTuple):
    """What batches are cut by, in tokens."""

    batch_tokens: int
    """Rows of a batch times the longest of them, padding counted."""
    run_tokens: int
    """What a run costs beside its tokens."""


CPU_BUDGET = Budget(2048, 16)
"""A run's cost was measured on 2 cores: 9 to 21 tokens for models/mini, 12 for 0.6B's shape as int8."""
BUDGETS = {"CUDAExecutionProvider": Budget(8192, 1000)}
"""Where a provider needs another: on an H200, of 0.6B's shape as fp16, texts of many lengths then get 1.6 times
the tokens/s, 2.4 times while their shapes are new."""


def default_budget(provider: str) -> Budget:
    """Of an onnxruntime provider."""
    return BUDGETS.get(provider, CPU_BUDGET)


def batches(lengths: Sequence[int], budget: Budget = CPU_BUDGET) -> list[list[int]]:
    """Rows of each batch, longest texts first so that running out of memory shows at once.

    Of all ways to cut the sorted rows into batches within the budget the one that costs least: padding, or one run more. A
    single text longer than the budget is a batch of its own.

    Example: ``batches([3, 9, 2], Budget(batch_tokens=10, run_tokens=16))`` → ``[[1], [0, 2]]``.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    costs = np.full(len(order) + 1, np.inf)  # of the rows before this place
    costs[0] = 0
    begins = np.zeros(len(order) + 1, np.int64)  # where the last of their batches begins
    for begin, row in enumerate(order):
        longest = max(1, lengths[row])
        sizes = np.arange(1, 1 + min(max(1, budget.batch_tokens // longest), len(order) - begin))
        found = costs[begin] + budget.run_tokens + sizes * longest
        ends = begin + sizes[found < costs[begin + sizes]]
        costs[ends], begins[ends] = found[ends - begin - 1], begin
    cut, end = list[list[int]](), len(order)
    while end:
        cut.append(order[begins[end] : end])
        end = begins[end]
    return cut[::-1]


def pad(ids: Sequence[npt.NDArray[np.int64]], pad_id: int, padding_side: str = "right") -> dict[str, npt.NDArray[np.int64]]:
    """Feeds of one run: ``input_ids`` and ``attention_mask``, int64 [B, T].

    The graph gives the same vectors for padding on either side; on the right it has nothing to move. T is the longest row's, of
    long texts the next even number: tiled attention takes 64 to 256 tokens at a time, as the CPU's cache allows, and one that
    is left alone otherwise than among others, with other last bits.
    """
    longest = max(map(len, ids))
    shape = (len(ids), longest + (longest > SHORT_TOKENS and longest % 2))
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    for row, row_ids in enumerate(ids):
        place = slice(len(row_ids)) if padding_side == "right" else slice(shape[1] - len(row_ids), None)
        input_ids[row, place] = row_ids
        attention_mask[row, place] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}
