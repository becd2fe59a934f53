"""The queue of a model: whole requests or none, long texts beside short ones, and nobody fails for another's row."""

import asyncio
import threading
import time

import numpy as np
import pytest

from q3_runtime.errors import NonFiniteError, TooLargeError, TooLongError
from q3_runtime.server.metrics import Metrics
from q3_runtime.server.reading import Reader
from q3_runtime.server.refusals import RefusedError, refusal_of
from q3_runtime.server.scheduling import LONG, Limits, Scheduler

SHORT_RUN, LONG_RUN = 0.02, 0.6


def texts(*lengths: int) -> list[np.ndarray]:
    return [np.full(length, length, dtype=np.int64) for length in lengths]


class Model:
    """Gives each row its length, in a time that depends on it; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, ids):
        lengths = [len(row) for row in ids]
        self.batches.append(lengths)
        time.sleep(LONG_RUN if max(lengths) > LONG else SHORT_RUN)
        if 13 in lengths:
            raise RuntimeError("a row that breaks its batch")
        return [NonFiniteError([0]) if length == 7 else length for length in lengths]


def run(scenario, limits: Limits | None = None) -> Model:
    """A scenario with a scheduler, in an event loop of its own."""
    model = Model()

    async def main():
        scheduler = Scheduler(model, limits or Limits(), Metrics(), "name")
        try:
            await scenario(scheduler)
        finally:
            scheduler.close()
        assert scheduler.tokens == 0

    asyncio.run(main())
    return model


def test_every_request_gets_its_own_rows_in_its_own_order():
    async def scenario(scheduler):
        requests = [[5, 900, 20], [6], [2000, 3], [20, 20, 20]]
        found = await asyncio.gather(*(scheduler.answer(texts(*lengths)) for lengths in requests))
        assert [results for results, _ in found] == requests

    model = run(scenario)
    assert sum(map(len, model.batches)) == 9
    assert len(model.batches) < 9


def test_that_nothing_waits_is_told_before_the_first_request():
    async def main():
        metrics = Metrics()
        Scheduler(Model(), Limits(), metrics, "name").close()
        assert b'q3_waiting_tokens{model="name"} 0.0' in metrics.text()

    asyncio.run(main())


def test_a_long_text_does_not_hold_up_short_ones():
    async def scenario(scheduler):
        long = asyncio.ensure_future(scheduler.answer(texts(30_000)))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        await asyncio.gather(*(scheduler.answer(texts(10)) for _ in range(5)))
        assert time.monotonic() - started < LONG_RUN / 2
        assert not long.done()
        await long

    run(scenario)


def test_a_request_is_admitted_whole_or_not_at_all():
    async def scenario(scheduler):
        first = asyncio.ensure_future(scheduler.answer(texts(60, 20)))
        await asyncio.sleep(0)
        with pytest.raises(RefusedError) as refused:
            await scheduler.answer(texts(10, 15))
        assert (refused.value.code, scheduler.tokens) == ("overloaded", 80)
        assert 1 <= int(refused.value.headers["retry-after"]) <= 60
        await scheduler.answer(texts(20))
        await first
        await scheduler.answer(texts(10, 15))
        with pytest.raises(RefusedError, match="101 tokens, expected at most 100") as refused:
            await scheduler.answer(texts(101))
        assert refused.value.code == "too_many_tokens"

    run(scenario, Limits(queue_tokens=100))


def test_a_request_that_waits_too_long_is_refused_and_not_run_afterwards():
    async def scenario(scheduler):
        first = asyncio.ensure_future(scheduler.answer(texts(2000)))
        await asyncio.sleep(0.02)
        with pytest.raises(RefusedError) as refused:
            await scheduler.answer(texts(2001))
        assert refused.value.code == "queue_timeout"
        await first
        await scheduler.answer(texts(2002))

    assert run(scenario, Limits(queue_seconds=0.2)).batches == [[2000], [2002]]


def test_the_rows_of_a_client_that_has_left_are_dropped_before_they_run():
    async def scenario(scheduler):
        first = asyncio.ensure_future(scheduler.answer(texts(2000)))
        await asyncio.sleep(0.02)
        gone = asyncio.ensure_future(scheduler.answer(texts(2500, 2600)))
        await asyncio.sleep(0.02)
        gone.cancel()
        await first
        await scheduler.answer(texts(3000))

    assert run(scenario).batches == [[2000], [3000]]


def test_only_the_request_fails_whose_row_is_wrong():
    async def scenario(scheduler):
        lengths = [[10], [7, 10], [13], [10, 10]]
        blocked = asyncio.ensure_future(scheduler.answer(texts(20)))
        await asyncio.sleep(0.005)
        found = await asyncio.gather(*(scheduler.answer(texts(*each)) for each in lengths), return_exceptions=True)
        await blocked
        assert [type(each).__name__ for each in found] == ["tuple", "NonFiniteError", "RuntimeError", "tuple"]
        assert (await scheduler.answer(texts(10)))[0] == [10]

    run(scenario)


def test_an_error_says_of_which_text_of_its_request_it_is_whatever_batch_that_was_in():
    async def scenario(scheduler):
        blocked = asyncio.ensure_future(scheduler.answer(texts(20)))
        await asyncio.sleep(0.005)
        found = await asyncio.gather(scheduler.answer(texts(10, 10, 7)), scheduler.answer(texts(10)), return_exceptions=True)
        await blocked
        assert (type(found[0]), found[0].row) == (NonFiniteError, 2)

    run(scenario)


def test_what_cannot_be_admitted_is_known_before_it_is_read():
    async def scenario(scheduler):
        first = asyncio.ensure_future(scheduler.answer(texts(60, 20)))
        await asyncio.sleep(0)
        scheduler.check_room(20)
        for tokens, code in ((21, "overloaded"), (101, "too_many_tokens")):
            with pytest.raises(RefusedError) as refused:
                scheduler.check_room(tokens)
            assert refused.value.code == code
        await first

    run(scenario, Limits(queue_tokens=100))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NonFiniteError([0]), "Inference failed: the vector of `input[2]` is not finite or is zero"),
        (
            TooLargeError(0, 900, 5_000_000, 1_000_000),
            "Inference failed: `input[2]` with 900 tokens needs about 5 MB of memory",
        ),
    ],
)
def test_what_failed_is_named_by_its_place_in_the_request(error, said):
    error.row = 2
    refusal = refusal_of(error, lambda index: f"input[{index}]")
    assert refusal.param == "input[2]"
    assert refusal.message.startswith(said)


def test_the_tokens_of_a_text_that_was_cut_before_they_were_counted_are_a_least_number():
    refusal = refusal_of(TooLongError(0, 100, 50, at_least=True), lambda index: f"input[{index}]")
    assert refusal.message == "`inputs` must have less than 50 tokens. Given: at least 100"


def test_a_short_request_is_read_while_long_ones_are():
    async def main():
        reader, over = Reader(), threading.Event()
        long = [asyncio.ensure_future(reader.run(2_000_000, over.wait)) for _ in range(3)]
        await asyncio.sleep(0.01)
        try:
            assert await asyncio.wait_for(reader.run(5000, lambda: "read"), 5) == "read"
        finally:
            over.set()
        assert await asyncio.gather(*long) == [True] * 3
        reader.close()

    asyncio.run(main())
