"""What a graph refers to, read from its bytes before onnxruntime opens it, and without onnx.

A .onnx file is a ``ModelProto`` (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) in protobuf's wire format
(https://protobuf.dev/programming-guides/encoding): fields one after another, each a key, which is field number × 8 + wire
type, and a value. Only what can name a file or foreign code is looked at; all else is stepped over, weights too.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAX_DEPTH, MAX_FIELDS, MAX_NAME = 32, 2_000_000, 4096
"""Of graphs within graphs; of fields in all, some seconds' worth; bytes of a name."""
VARINT, BYTES, FIXED = 0, 2, {1: 8, 5: 4}
"""Wire types; those of a fixed number of bytes."""
EXTERNAL = 1
"""Of ``TensorProto.data_location``."""
POINTS_TO_A_FILE = "EPContext"
"""Operator of com.microsoft whose attribute is a path (onnxruntime.ai/docs/execution-providers/EP-Context-Design.html)."""
NEEDS_ALL_INPUTS = ("Max", "Min", "Sum", "Mean", "Einsum")
"""Operators of ONNX that take any number of inputs: where one of them has no name, onnxruntime 1.31 ends the process."""
MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "tensor": {13: "entry"},
}
"""Message → its fields that are messages in turn."""
VALUES: dict[str, dict[int, tuple[str, type]]] = {
    "node": {1: ("input", slice), 4: ("type", slice), 7: ("domain", slice)},
    "opset": {1: ("domain", slice)},
    "tensor": {8: ("name", slice), 14: ("location", int)},
    "entry": {1: ("key", slice), 2: ("value", slice)},
}
"""Message → its other fields that count, each a number or where its text is."""


class GraphError(ValueError):
    """Bytes that are not a graph, or one that no exporter writes."""


@dataclass(frozen=True)
class External:
    """A tensor whose bytes are in another file; ``length`` None: as many as its shape needs."""

    tensor: str
    location: str
    offset: int = 0
    length: int | None = None


@dataclass
class References:
    """What a graph names outside of itself."""

    external: list[External] = field(default_factory=list)
    operators: set[tuple[str, str]] = field(default_factory=set)
    """Domain, ``""`` for ONNX's own, and type of every node."""
    domains: set[str] = field(default_factory=set)
    """Whose operators are imported."""
    rare: set[str] = field(default_factory=set)
    """Of ``sparse``, ``function`` and ``training``, what is in it. Before 1.27, onnxruntime did not check where a sparse
    tensor's bytes lie."""


def scan(path: Path) -> References:
    """What the graph in this file refers to.

    Raises:
        GraphError: not a graph, or graphs nested too deeply, or too much of it to be looked at.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise GraphError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return scan_bytes(content)


def scan_bytes(content: mmap.mmap | bytes) -> References:
    """:func:`scan` of a file's content."""
    scanner = _Scanner(content)
    scanner.message("model", slice(0, len(content)), 0)
    if not scanner.graphs:
        raise GraphError("there is no graph in it")
    return scanner.found


class _Scanner:
    def __init__(self, content: mmap.mmap | bytes) -> None:
        self._content = content
        self._fields_left = MAX_FIELDS
        self.graphs = 0
        self.found = References()

    def message(self, kind: str, place: slice, depth: int) -> dict[str, str | int]:
        """Look at everything in a message; its own values that count, of each the last one, as protobuf reads it."""
        if depth > MAX_DEPTH:
            raise GraphError(f"graphs are nested more than {MAX_DEPTH} deep")
        own: dict[str, str | int] = {}
        entries: list[dict[str, str | int]] = []
        inner, counting = MESSAGES.get(kind, {}), VALUES.get(kind, {})
        for number, value in self._fields(place):
            below, (name, form) = inner.get(number), counting.get(number, ("", None))
            if below and isinstance(value, slice):  # of another wire type it is an unknown field, which says nothing
                found = self.message(below, value, depth + (below == "graph"))
                if below == "entry":
                    entries.append(found)
            elif form is type(value):
                own[name] = self._text(value) if isinstance(value, slice) else value
                if name == "input" and not own[name]:
                    own["unnamed"] = 1
        self._note(kind, own, entries)
        return own

    def _note(self, kind: str, own: dict[str, str | int], entries: list[dict[str, str | int]]) -> None:
        if kind == "graph":
            self.graphs += 1
        elif kind == "node":
            operator = str(own.get("type", ""))
            self.found.operators.add((str(own.get("domain", "")), operator))
            if "unnamed" in own and operator in NEEDS_ALL_INPUTS:
                raise GraphError(f"an input of {operator} has no name, expected one of each")
        elif kind == "opset":
            self.found.domains.add(str(own.get("domain", "")))
        elif kind == "tensor" and (entries or own.get("location") == EXTERNAL):
            self.found.external.append(_external(str(own.get("name", "")), entries))
        elif kind in ("sparse", "function", "training"):
            self.found.rare.add(kind)

    def _fields(self, place: slice) -> Iterator[tuple[int, int | slice]]:
        """Field number and value, a number or where its bytes are. Values of fixed width are stepped over."""
        at, end = place.start, place.stop
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise GraphError(f"it has more than {MAX_FIELDS} fields")
            key, at = self._varint(at, end)
            number, wire = key >> 3, key & 7
            if wire == VARINT:
                value, at = self._varint(at, end)
                yield number, value
            elif wire == BYTES:
                length, at = self._varint(at, end)
                yield number, slice(at, _within(at + length, end))
                at += length
            elif wire in FIXED:
                at = _within(at + FIXED[wire], end)
            else:
                raise GraphError(f"byte {at} is no field of a graph")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number in groups of 7 bits, the lowest first, and the place behind it."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self._content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise GraphError(f"byte {at} is no end of a number")

    def _text(self, place: slice) -> str:
        if place.stop - place.start > MAX_NAME:
            raise GraphError(f"a name of {place.stop - place.start} bytes at byte {place.start}")
        return self._content[place].decode("utf-8", "backslashreplace")


def _within(at: int, end: int) -> int:
    if at > end:
        raise GraphError(f"it ends at byte {end}, expected {at - end} bytes more")
    return at


def _external(name: str, entries: list[dict[str, str | int]]) -> External:
    """The keys are those of onnx's own writer (onnx/external_data_helper.py)."""
    found: dict[str, str] = {}
    for entry in entries:
        key, value = str(entry.get("key", "")), str(entry.get("value", ""))
        if key in found or key not in ("location", "offset", "length", "checksum"):
            raise GraphError(f"tensor {name!r}: {key!r} in its external data, expected location, offset and length once")
        found[key] = value
    for key in found.keys() & {"offset", "length"}:
        if not (found[key].isascii() and found[key].isdecimal() and len(found[key]) < 20):
            raise GraphError(f"tensor {name!r}: {key} {found[key]!r} in its external data, expected a number")
    if not found.get("location"):
        raise GraphError(f"tensor {name!r}: external data without a location")
    length = int(found["length"]) if "length" in found else None
    return External(name, found["location"], int(found.get("offset", 0)), length)
