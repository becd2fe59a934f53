"""Errors between processes: what one raises is what another catches."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from q3_runtime.errors import (
    BusyError,
    FidelityError,
    InputError,
    IntegrityError,
    ModelError,
    NonFiniteError,
    ProviderError,
    Q3Error,
    StoppedError,
    StorageError,
    TextError,
    TextTypeError,
    TooLargeError,
    TooLongError,
    UsageError,
)

ERRORS = [
    *(
        kind("said", fault="E_SAID")
        for kind in (
            Q3Error, UsageError, InputError, ModelError, FidelityError, StorageError, IntegrityError, ProviderError, BusyError,
            StoppedError,
        )
    ),
    TextTypeError(3, b"a"),
    TextTypeError(None, 5),
    TextError(3, 1, 0xD800),
    TooLongError(3, 5000, 2048, at_least=True),
    NonFiniteError([3, 4], "score"),
    TooLargeError(3, 5000, 10**9, None),
]  # fmt: skip
WAYS = {
    "copied": copy.copy,
    "copied deeply": copy.deepcopy,
    **{
        f"pickled by protocol {number}": lambda error, number=number: pickle.loads(pickle.dumps(error, number))
        for number in range(6)
    },
}


def kinds(base: type[Q3Error]) -> set[type[Q3Error]]:
    return {base}.union(*map(kinds, base.__subclasses__()))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_comes_out_as_it_went_in(error: Q3Error, way: Callable[[Q3Error], Q3Error]) -> None:
    error.row = 7
    error.add_note("in the second file")
    again = way(error)
    assert type(again) is type(error)
    assert (str(again), again.args, again.exit_code) == (str(error), error.args, error.exit_code)
    assert vars(again) == vars(error)


def test_every_class_of_error_is_among_them() -> None:
    assert kinds(Q3Error) == {type(error) for error in ERRORS}


def refuse(_: int) -> None:
    raise TooLongError(3, 5000, 2048)


def test_an_error_of_a_pool_reaches_who_asked() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, pytest.raises(TooLongError) as caught:
        list(pool.map(refuse, [0]))
    assert (caught.value.index, str(caught.value)) == (3, str(TooLongError(3, 5000, 2048)))
