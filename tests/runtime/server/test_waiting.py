"""Rows that wait: all are taken once, batches are near in length and within the budget, and the order is fair to requests."""

import tracemalloc
from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from q3_runtime.server.waiting import NEAR, SHORT, Row, Waiting

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=40)


def rows(lengths: list[int], owner: object = None, alone: Callable | None = None) -> list[Row]:
    return [Row(np.zeros(length, dtype=np.int64), index, owner, alone) for index, length in enumerate(lengths)]


def drained(waiting: Waiting, budget: int) -> list[list[Row]]:
    batches = []
    while batch := waiting.take(budget):
        batches.append(batch)
    return batches


@given(requests=st.lists(LENGTHS, min_size=1, max_size=5), budget=st.integers(1, 4096))
def test_every_row_is_taken_once_in_batches_within_the_budget(requests, budget):
    waiting, added = Waiting(), []
    for lengths in requests:
        added += rows(lengths)
        waiting.add(added[-len(lengths) :])
    batches = drained(waiting, budget)
    assert sorted(id(row) for batch in batches for row in batch) == sorted(map(id, added))
    assert len(waiting) == 0
    for batch in batches:
        sizes = [len(row.ids) for row in batch]
        assert len(batch) == 1 or len(batch) * max(sizes) <= budget
        assert min(sizes) >= NEAR * max(sizes) or max(sizes) <= SHORT


@given(lengths=LENGTHS, gone=st.sets(st.integers(0, 39)))
def test_a_row_that_was_removed_is_never_taken(lengths, gone):
    waiting, added = Waiting(), rows(lengths)
    waiting.add(added)
    for index in gone & set(range(len(added))):
        waiting.remove(added[index])
        waiting.remove(added[index])
    taken = {row.index for batch in drained(waiting, 2048) for row in batch}
    assert taken == set(range(len(added))) - gone


def test_rows_that_were_removed_take_no_memory():
    waiting = Waiting()
    waiting.add(rows([100], "stays"))
    tracemalloc.start()
    try:
        for _ in range(20_000):
            (left,) = rows([100], "left")
            waiting.add([left])
            waiting.remove(left)
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert [row.owner for batch in drained(waiting, 2048) for row in batch] == ["stays"]


@given(lengths=LENGTHS)
def test_rows_that_are_to_be_alone_are(lengths):
    waiting = Waiting()
    waiting.add(rows(lengths, alone=len))
    assert [len(batch) for batch in drained(waiting, 4096)] == [1] * len(lengths)


def test_a_query_does_not_wait_for_a_request_of_thousands_of_texts():
    waiting, query = Waiting(), rows([12], "query")
    waiting.add(rows([128] * 2000, "bulk"))
    for _ in range(3):
        waiting.take(2048)
    waiting.add(query)
    soon = waiting.take(2048) + waiting.take(2048)
    assert query[0] in soon


def test_of_two_large_requests_neither_waits_for_the_other():
    waiting = Waiting()
    waiting.add(rows([100] * 100, "first"))
    waiting.add(rows([300] * 100, "second"))
    tokens = {"first": 0, "second": 0}
    for _ in range(20):
        for row in waiting.take(600):
            tokens[row.owner] += len(row.ids)
    assert 0.7 <= tokens["first"] / tokens["second"] <= 1.4


def test_queries_that_keep_coming_do_not_keep_a_large_request_out():
    waiting = Waiting()
    bulk = rows([500] * 50, "bulk")
    waiting.add(bulk)
    waiting.add(rows([40], "query"))
    for _ in range(1500):
        waiting.add(rows([40], "query"))  # so that one waits at every moment
        waiting.take(512)
    assert sum(row.waits for row in bulk) == 0


def test_a_batch_takes_the_nearest_in_length_first():
    waiting = Waiting()
    waiting.add(rows([100, 50, 99, 101, 400, 97]))
    assert sorted(len(row.ids) for row in waiting.take(303)) == [99, 100, 101]
