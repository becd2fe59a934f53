"""What the doctor found: one line each, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: a short name for programs, ``prompt`` say.
        level: ``problem``: vectors or scores come out wrong, or somebody cannot load it; ``note``: worth knowing.
        text: what was found and, unless it is ok, what was expected.
        remedy: what to do, where something is to be done.
    """

    check: str
    level: Level
    text: str
    remedy: str = ""


def ok(check: str, text: str) -> Finding:
    """As it should be."""
    return Finding(check, "ok", text)


def note(check: str, text: str, remedy: str = "") -> Finding:
    """Worth knowing."""
    return Finding(check, "note", text, remedy)


def problem(check: str, text: str, remedy: str) -> Finding:
    """Wrong."""
    return Finding(check, "problem", text, remedy)
