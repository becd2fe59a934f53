"""Whatever rows kill the process that computes them, they are found, and no others (B17)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from q3_runtime.bulk.attempts import MOST, MOST_POISON, Attempts
from q3_runtime.errors import ProviderError


class KilledError(Exception):
    pass


def life(path, rows: int, deadly: set[int]) -> list[int]:
    """What a worker does with one task, until it is killed."""
    attempts = Attempts.read(path)
    while trial := attempts.begin(rows):
        if deadly & set(range(*trial)):
            raise KilledError
        attempts.survived()
    if deadly - set(attempts.poison):
        raise KilledError
    left_out = list(attempts.poison)
    attempts.end()
    return left_out


def lives(path, rows: int, deadly: set[int]) -> tuple[list[int], int]:
    """The rows left out in the end, and how many workers it cost."""
    for count in range(10_000):
        try:
            return life(path, rows, deadly), count
        except KilledError:
            continue
    raise AssertionError("it never ends")


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300).flatmap(lambda rows: st.tuples(st.just(rows), st.sets(st.integers(0, rows - 1), max_size=5))))
def test_exactly_the_rows_that_kill_are_left_out(tmp_path_factory, shape):
    rows, deadly = shape
    path = tmp_path_factory.mktemp("attempts") / "0/1.json"
    left_out, deaths = lives(path, rows, deadly)
    assert left_out == sorted(deadly)
    assert deaths <= MOST + len(deadly) * (rows.bit_length() + MOST)
    assert not path.exists()


def test_one_row_of_4096_costs_eighteen_workers_at_most(tmp_path):
    assert lives(tmp_path / "0/1.json", 4096, {1234})[1] <= MOST + 12 + MOST


def test_a_task_that_is_killed_from_outside_is_done_whole_in_the_end(tmp_path):
    path = tmp_path / "0/1.json"
    for _ in range(MOST + 2):  # each time before anything ends
        Attempts.read(path).begin(8)
    assert life(path, 8, set()) == []


def test_an_attempt_that_was_broken_off_on_purpose_does_not_count(tmp_path):
    path = tmp_path / "0/1.json"
    for _ in range(5 * MOST):
        assert Attempts.read(path).begin(8) is None
        Attempts.read(path).forgive()
    assert not path.exists()


def test_a_task_that_kills_as_a_whole_only_is_given_up_and_named(tmp_path):
    path = tmp_path / "0/7.json"

    def lives_that_end_with_the_whole() -> None:
        while True:
            attempts = Attempts.read(path)
            while attempts.begin(4):
                attempts.survived()

    with pytest.raises(ProviderError, match="task 7 has killed 3 processes, although none of its rows does alone"):
        lives_that_end_with_the_whole()


def test_a_task_whose_every_row_kills_is_given_up_and_named(tmp_path):
    with pytest.raises(ProviderError, match=f"{MOST_POISON + 1} of its rows have each killed"):
        lives(tmp_path / "0/7.json", 100, set(range(100)))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"count": 1}', '{"count": "x", "taken_apart": false, "suspects": [], "poison": []}']
)
def test_a_damaged_file_is_as_none(tmp_path, content):
    path = tmp_path / "1.json"
    path.write_text(content)
    assert Attempts.read(path) == Attempts(path)
