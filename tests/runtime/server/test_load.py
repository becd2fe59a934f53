"""Load: all that is asked is answered, vectors stay right, memory stays flat. In small here, in full with --full serve."""

import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.server.test_stopping import lost
from tests.support.load import Outcome, at_once, at_rate, percentile
from tests.support.server import Server, serving

from q3_runtime import Embedder

WORDS = Path(__file__).parents[3].joinpath("examples/notes.txt").read_text("utf-8").split()


def texts(count: int, seed: int) -> list[str]:
    """Of 3 to 60 words."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(3, 60))) for _ in range(count)]


@pytest.fixture(scope="module")
def model(mini_folder: Path) -> Embedder:
    return Embedder(mini_folder, quant="int8")


@pytest.fixture
def server(mini_folder: Path, tmp_path: Path):
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log") as found:
        found.post("/embed", {"inputs": "warm"})
        yield found


def check_vectors(outcomes: list[Outcome], asked: list[str], model: Embedder) -> None:
    answered = [number for number, outcome in enumerate(outcomes) if outcome.status == 200]
    found = np.array([outcomes[number].content[0] for number in answered])
    expected = model.encode([asked[number] for number in answered])
    assert (found * expected).sum(axis=1).min() >= 0.9999


def steady(server: Server, model: Embedder, rate: int, seconds: int) -> float:
    """Requests at a fixed rate, all answered and right; the 99th percentile of their seconds."""
    asked = texts(rate * seconds, seed=1)
    outcomes = at_rate(server.port, "/embed", [{"inputs": text} for text in asked], rate)
    assert [outcome.problem for outcome in outcomes if outcome.status != 200] == []
    check_vectors(outcomes, asked, model)
    print(f"\n{rate} requests/s for {seconds} s: p50 {1000 * percentile(outcomes, 50):.0f} ms, "
          f"p99 {1000 * percentile(outcomes, 99):.0f} ms, {server.memory() / 1e6:.0f} MB")  # fmt: skip
    return percentile(outcomes, 99)


def burst(server: Server, model: Embedder, connections: int) -> None:
    """Connections that are opened and then ask at once: each is answered, by 200 or by 429."""
    asked, before = texts(connections, seed=2), server.memory()
    outcomes = at_once(server.port, "/embed", [{"inputs": text} for text in asked])
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in (0, 200, 429)}
    grown = server.memory() - before
    print(f"\n{connections} connections at once: {counts}, memory grew by {grown / 1e6:.0f} MB")
    assert counts[0] == 0, [outcome.problem for outcome in outcomes if not outcome.status][:3]
    assert counts[200] + counts[429] == connections
    assert counts[200] > 0
    check_vectors(outcomes, asked, model)
    assert grown < 200e6
    assert server.post("/embed", {"inputs": "a"}).status == 200


def beside_a_giant(server: Server, rate: int, seconds: int) -> None:
    """A text of more than 40,000 tokens is cut and answered, or refused, within a second, and others hardly notice."""
    asked = [{"inputs": text} for text in texts(rate * seconds, seed=3)]
    alone = at_rate(server.port, "/embed", asked, rate)
    giants: list[tuple[int, float]] = []
    halt = threading.Event()

    def send() -> None:
        for truncate in (True, False) * 50:
            started = time.monotonic()
            answer = server.post("/embed", {"inputs": "giant " * 45_000, "truncate": truncate})
            giants.append((answer.status, time.monotonic() - started))
            if halt.wait(1):
                return

    sender = threading.Thread(target=send)
    sender.start()
    beside = at_rate(server.port, "/embed", asked, rate)
    halt.set()
    sender.join()
    one, other, slowest = percentile(alone, 99), percentile(beside, 99), max(seconds for _, seconds in giants)
    print(f"\np99 alone {1000 * one:.0f} ms, beside {len(giants)} giants {1000 * other:.0f} ms; a giant took {slowest:.2f} s")
    assert {outcome.status for outcome in [*alone, *beside]} == {200}
    assert {status for status, _ in giants} <= {200, 422}
    assert len({status for status, _ in giants}) == 2
    assert slowest <= 1
    assert other <= one + 0.1


def soak(server: Server, model: Embedder, minutes: float, rate: int) -> None:
    """Requests of all sorts for a long time: memory stays where it is."""
    chance = random.Random(4)
    before, deadline = 0, time.monotonic() + 60 * minutes
    began = time.monotonic()
    while time.monotonic() < deadline:
        asked = texts(rate * 10, seed=chance.randrange(1 << 30))
        outcomes = at_rate(server.port, "/embed", [{"inputs": text} for text in asked], rate)
        assert {outcome.status for outcome in outcomes} == {200}
        check_vectors(outcomes, asked, model)
        server.post("/v1/embeddings", {"input": texts(200, seed=chance.randrange(1 << 30)), "encoding_format": "base64"})
        server.post("/embed", {"inputs": 5})
        server.post("/embed", b"{")
        if not before and time.monotonic() - began > 60 * minutes / 6:  # what a warm server keeps is not growth
            before = server.memory()
    grown = server.memory() - before
    print(f"\n{minutes:g} minutes: memory grew by {grown / 1e6:.0f} MB from {before / 1e6:.0f} MB")
    assert before
    assert grown < 50e6


def test_steady_requests_are_all_answered_and_right(server, model):
    steady(server, model, rate=30, seconds=10)


def test_two_hundred_connections_at_once_are_all_answered(server, model):
    burst(server, model, 200)


def test_more_than_may_wait_are_told_so(mini_folder, model, tmp_path):
    with serving("--model", f"{mini_folder}:int8", "--max-concurrent-requests", 20, log=tmp_path / "log") as server:
        burst(server, model, 200)


@pytest.mark.full("serve")
def test_hundred_requests_a_second_for_a_minute(server, model):
    steady(server, model, rate=100, seconds=60)


@pytest.mark.full("serve")
def test_five_thousand_connections_at_once(server, model):
    burst(server, model, 5000)


@pytest.mark.full("serve")
def test_a_giant_beside_traffic(server):
    beside_a_giant(server, rate=40, seconds=20)


@pytest.mark.full("serve")
def test_hundred_stops_under_load_leave_nobody_unanswered(mini_folder, tmp_path):
    found = [lost(mini_folder, tmp_path / "log", 0.15 + 0.004 * trial) for trial in range(100)]
    assert [trial for trial in found if trial] == []


@pytest.mark.full("serve")
def test_half_an_hour_takes_no_memory(server, model):
    soak(server, model, minutes=30, rate=20)
