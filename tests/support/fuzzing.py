"""Damage of every kind, tried as often as the budget says, on a process of its own that has to stay alive and small.

The property, whatever the damage: a clear error or the right result; never a hang, a traceback, or memory without a bound.
"""

import functools
import json
import select
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from onnx import ModelProto
from tests.conftest import ROOT

SECONDS = 60
"""Of one attempt, which takes some milliseconds, on a busy machine."""
ROOM = 1 << 30
"""Bytes of address space that a damaged file may take above a good one."""
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([10**12, 10**4299, -1, 0, "", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
"""Values of every JSON type in place of another: also ones that no number type holds, and ones that cannot be printed."""


class Content(bytes):
    """Of a file, too long to be printed: what was changed in it is noted."""

    def __repr__(self) -> str:
        return f"{len(self)} bytes"


class Slots(list[tuple[Any, ...]]):
    """Too many to be printed, which hypothesis does where it cannot draw a number."""

    def __repr__(self) -> str:
        return f"{len(self)} slots"


def budgets(ci: int, full: int) -> pytest.MarkDecorator:
    """How many examples the argument ``budget`` stands for: in CI, and in scripts/test --full hardening."""
    return pytest.mark.parametrize("budget", [ci, pytest.param(full, marks=pytest.mark.full("hardening"))])


def examples(budget: int) -> settings:
    """Of hypothesis, for what takes long."""
    return settings(max_examples=budget, deadline=None, suppress_health_check=list(HealthCheck))


def changed_bytes(content: bytes) -> st.SearchStrategy[Content]:
    """One to four places of it: another byte, some bytes replaced by others or by none, the rest cut off."""
    place = st.integers(0, len(content))
    other = st.tuples(place, st.just(1), st.binary(min_size=1, max_size=1))
    spliced = st.tuples(place, st.integers(0, 64), st.binary(max_size=16))
    cut = st.tuples(place, st.just(len(content)), st.just(b""))

    def changed(changes: list[tuple[int, int, bytes]]) -> Content:
        note(f"at, instead of so many bytes, these: {changes}")
        return Content(functools.reduce(splice, changes, content))

    def splice(whole: bytes, change: tuple[int, int, bytes]) -> bytes:
        at, length, new = change
        return whole[:at] + new + whole[at + length :]

    return st.lists(other | spliced | cut, min_size=1, max_size=4).map(changed)


@st.composite
def changed_json(draw: st.DrawFn, content: Any) -> Content:
    """A value somewhere in it, or the whole, replaced by any other, by one from elsewhere in it, or taken away."""
    places = [(), *_places(content)]
    place = draw(st.sampled_from(places))
    new = draw(JSON | st.sampled_from(places).map(lambda other: _value(content, other)))
    whole = {"all": deepcopy(content)}
    *way, last = "all", *place
    taken_away = bool(place) and draw(st.integers(0, 4)) == 0
    if taken_away:
        del _value(whole, way)[last]
    else:
        _value(whole, way)[last] = new
    note(f"{place}: {'taken away' if taken_away else repr(new)[:300]}")
    return Content(json.dumps(whole["all"]).encode())


def _value(content: Any, way: Sequence[Any]) -> Any:
    return functools.reduce(lambda at, key: at[key], way, content)


def _places(content: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield (*way, key)
        yield from _places(content[key], (*way, key))


NUMBERS = st.sampled_from([0, 1, -1, 2, 7, 64, 2**31 - 1, -(2**31)]) | st.integers(-(2**63), 2**63 - 1)
NAMES = st.sampled_from(["", "x", "Loop", "MatMul", "input_ids", "sentence_embedding", "com.microsoft"]) | st.text(max_size=9)
OTHERS: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: NUMBERS,
    float: st.floats(width=32),
    str: NAMES,
    bytes: st.binary(max_size=16),
}
"""Type of a field of a graph → what may stand there."""


@st.composite
def changed_graph(draw: st.DrawFn, content: Content, slots: Slots) -> Content:
    """One to three fields of a model, ``slots`` of it, replaced, doubled or taken away: a graph that is well formed."""
    model = ModelProto.FromString(content)
    for *way, name, index in draw(st.lists(st.sampled_from(slots), min_size=1, max_size=3)):
        with suppress(IndexError, ValueError):  # what was taken away before; what the field does not hold
            message = functools.reduce(lambda at, step: _at(at, *step), way, model)
            value, everything = _at(message, name, index), getattr(message, name)
            kind = draw(st.sampled_from(["another", "another", "another", "none", "twice"]))
            note(f"{way} {name} {index}: {kind}")
            if kind == "none" and index is not None:
                del everything[index]
            elif kind == "none":
                message.ClearField(name)
            elif kind == "twice" and index is not None:
                everything.append(value)
            elif index is None and not isinstance(value, Message):
                setattr(message, name, draw(OTHERS[type(value)]))
            elif not isinstance(value, Message):
                everything[index] = draw(OTHERS[type(value)])
    return Content(model.SerializeToString())


def _at(message: Message, name: str, index: int | None) -> Any:
    return getattr(message, name) if index is None else getattr(message, name)[index]


def slots(content: Content) -> Slots:
    """Of a model, the way to each field that is set: names and places of its messages, name and place of the field."""
    return Slots(_slots(ModelProto.FromString(content), ()))


def _slots(message: Any, way: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for field, value in message.ListFields():
        several = hasattr(value, "append")
        for index, item in enumerate(value) if several else [(None, value)]:
            yield (*way, field.name, index)
            if field.message_type:
                yield from _slots(item, (*way, (field.name, index)))


class Subject:
    """A process that opens a folder or a checkpoint whenever it is asked to, and says what came of it."""

    def __init__(self, kind: str, good: Path, path: Path) -> None:
        self._command = [sys.executable, "-m", "tests.support.fuzz_subject", kind, str(good), str(path), str(ROOM)]
        self.outcomes: Counter[str] = Counter()
        self._start()

    def _start(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            cwd=ROOT,
        )
        assert self._answer(SECONDS * 3) == "right"

    def _answer(self, seconds: float) -> str:
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            return f"no answer in {seconds} s"
        if line := self._process.stdout.readline():
            return str(json.loads(line))
        code = self._process.wait()
        self._said.seek(0)
        name = signal.Signals(-code).name if code < 0 else code
        return f"ended with {name}: {self._said.read().decode(errors='replace')[-2000:]}"

    def check(self) -> None:
        """It is right, or refused in words; else the test fails."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._answer(SECONDS)
        word, _, rest = answer.partition(":")
        self.outcomes[word] += 1
        if answer != "right" and word != "refused":
            self.close()
            self._start()
            pytest.fail(answer)
        assert word == "right" or len(rest) > 10

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._said.close()
