"""Texts of any lengths → batches: each once, longest first, within the budget, and no cheaper way to cut them."""

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from q3_runtime import Embedder, Reranker
from q3_runtime.batching import BUDGETS, CPU_BUDGET, Budget, batches, default_budget
from q3_runtime.interruptible import InterruptibleSession
from q3_runtime.probing import run_all
from q3_runtime.windows import checked_budget

CUDA = "CUDAExecutionProvider"


def cost(lengths: list[int], cut: list[list[int]], budget: Budget) -> int:
    """Tokens that are computed, padding counted, and what the runs cost beside them."""
    return sum(budget.run_tokens + len(rows) * max(lengths[row] for row in rows) for rows in cut)


def fits(lengths: list[int], rows: list[int], budget: Budget) -> bool:
    return len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget.batch_tokens


@given(st.lists(st.integers(1, 3000), max_size=300), st.builds(Budget, st.integers(1, 5000), st.integers(0, 2000)))
def test_every_row_is_in_one_batch_longest_first_and_within_the_budget(lengths, budget):
    cut = batches(lengths, budget)
    assert sorted(row for rows in cut for row in rows) == list(range(len(lengths)))
    in_order = [lengths[row] for rows in cut for row in rows]
    assert in_order == sorted(in_order, reverse=True)
    assert all(fits(lengths, rows, budget) for rows in cut)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.builds(Budget, st.integers(1, 200), st.integers(0, 100)))
def test_no_other_cut_of_the_sorted_rows_costs_less(lengths, budget):
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    places = range(1, len(order))
    every = (
        [order[begin:end] for begin, end in pairwise([0, *chosen, len(order)])]
        for count in range(len(order))
        for chosen in combinations(places, count)
    )
    best = min(cost(lengths, cut, budget) for cut in every if all(fits(lengths, rows, budget) for rows in cut))
    assert cost(lengths, batches(lengths, budget), budget) == best


def test_a_hundred_lines_are_computed_with_a_tenth_of_padding() -> None:
    lengths = [10 + (41 * number) % 111 for number in range(100)]  # 10 to 120, as many of each
    padded = sum(len(rows) * max(lengths[row] for row in rows) for rows in batches(lengths))
    assert padded <= 1.1 * sum(lengths)


def test_a_gpu_gets_more_tokens_a_run_and_fewer_runs():
    """A run takes it milliseconds, in which it could compute a thousand tokens."""
    lengths = [10 + (41 * number) % 111 for number in range(1000)]
    assert default_budget("CPUExecutionProvider") == default_budget("OpenVINOExecutionProvider") == CPU_BUDGET
    assert 4 * len(batches(lengths, default_budget(CUDA))) < len(batches(lengths))
    assert checked_budget(CUDA, None, "strict") == default_budget(CUDA)
    assert checked_budget(CUDA, 100, "strict") == Budget(100, default_budget(CUDA).run_tokens)


def test_models_run_in_batches_of_their_provider_s_budget(folder, reranker_folder, monkeypatch):
    model, reranker = Embedder(folder), Reranker(reranker_folder, quant="fp32")
    runs = []
    run = InterruptibleSession.run
    monkeypatch.setattr(InterruptibleSession, "run", lambda *given: [runs.append(given), run(*given)][1])
    texts = ["one", "two", "three"]
    ids = [item.ids for item in model.tokenizer.encode(texts)]
    calls = (lambda: model.encode(texts), lambda: run_all(model, ids), lambda: reranker.rank("query", texts))
    counts = []
    for budget in (CPU_BUDGET, Budget(1, 0)):
        monkeypatch.setitem(BUDGETS, "CPUExecutionProvider", budget)
        for call in calls:
            runs.clear()
            call()
            counts.append(len(runs))
    assert counts == [1, 1, 1, 3, 3, 3]
