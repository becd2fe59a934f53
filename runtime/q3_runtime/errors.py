"""Every error a user can meet, with the exit code of the command line.

    Q3Error                                   1   a bug, if it is met bare
    ├── UsageError          (ValueError)      2   arguments that do not fit together
    ├── InputError          (ValueError)      3   a text, prompt or dimension that cannot be used
    │   ├── TextTypeError   (TypeError)       3   not a str
    │   ├── TextError                         3   a lone surrogate
    │   └── TooLongError                      3   more tokens than the model takes, and truncate=False
    ├── ModelError                            3   a folder or checkpoint that cannot be used
    │   └── NonFiniteError  (ArithmeticError) 3   the model gave NaN, infinity or a zero vector
    ├── FidelityError                         4   below the floor of its quant
    ├── StorageError        (OSError)         5   cannot read or write; disk full
    ├── IntegrityError                        6   a file is not the one that was exported
    ├── ProviderError       (RuntimeError)    7   onnxruntime or the hardware cannot run it
    ├── TooLargeError       (MemoryError)     7   a text that does not fit in memory
    ├── BusyError                             75  someone else is writing there; try again later
    └── StoppedError                          75  stopped before the end; the same command goes on

A message is one line: what was found, what was expected, what to type next.
"""

from collections.abc import Sequence
from typing import Any


class Q3Error(Exception):
    """Base of all errors raised on purpose.

    ``exit_code`` is what the commands end with; ``fault`` a name for programs, shown as ``error[E_SHAPE]``.
    """

    exit_code = 1

    def __init__(self, message: str, *, fault: str | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.row: int | None = None
        """Which text of a server's request it is of, whatever batch that was in."""

    def __reduce__(self) -> Any:
        """Between processes as it is: not every class takes its message."""
        return unsaid, (type(self),), self.__dict__ | {"args": self.args}


def unsaid(kind: type[Q3Error], *args: str) -> Q3Error:
    """An error that has not made its message yet, as some do in ``__init__``."""
    base = OSError if issubclass(kind, OSError) else Exception  # MemoryError's __new__ takes no class of several bases
    error: Q3Error = base.__new__(kind, *args)
    return error


class UsageError(Q3Error, ValueError):
    """Arguments that do not fit together."""

    exit_code = 2


class InputError(Q3Error, ValueError):
    """A text, prompt or dimension that cannot be used."""

    exit_code = 3


class TextTypeError(InputError, TypeError):
    """Something that is not a str where a text was expected; a prompt, where ``index`` is None."""

    def __init__(self, index: int | None, found: object) -> None:
        super().__init__(
            f"{_named(index)} is {type(found).__name__}, expected str; pass a list of strings, e.g. model.encode(['some text'])"
        )


class TextError(InputError):
    """A text, or, where ``index`` is None, a prompt with a lone surrogate, which has no UTF-8 form."""

    def __init__(self, index: int | None, position: int, code_point: int) -> None:
        super().__init__(
            f"{_named(index)} has a lone surrogate U+{code_point:04X} at character {position}, expected valid Unicode; "
            "pass errors='replace' to put U+FFFD in its place"
        )


class TooLongError(InputError):
    """A text with more tokens than the model takes, where truncation is off."""

    def __init__(self, index: int, tokens: int, limit: int, *, at_least: bool = False) -> None:
        self.index, self.tokens, self.limit = index, tokens, limit
        self.given = f"at least {tokens}" if at_least else str(tokens)
        super().__init__(
            f"text {index} has {self.given} tokens, the limit is {limit}; split it, or pass truncate=True to cut it"
        )


class ModelError(Q3Error):
    """A folder or checkpoint that cannot be used."""

    exit_code = 3


class NonFiniteError(ModelError, ArithmeticError):
    """Rows for which the model gave NaN, infinity or a zero vector; ``what`` it gives is a vector or a score."""

    def __init__(self, rows: Sequence[int], what: str = "vector") -> None:
        self.rows, self.what = list(rows), what
        shown = ", ".join(map(str, self.rows[:5])) + (", …" if len(self.rows) > 5 else "")
        super().__init__(
            f"{len(self.rows)} {what}(s) are not finite or are zero, first texts: {shown}; "
            "use another quant of this model (q3 info lists them), q8 or fp32 say"
        )


class FidelityError(Q3Error):
    """Vectors further from PyTorch's than the quant's floor allows."""

    exit_code = 4


class StorageError(Q3Error, OSError):
    """A place that cannot be read or written."""

    exit_code = 5


class IntegrityError(Q3Error):
    """A file that is not the one that was exported."""

    exit_code = 6


class ProviderError(Q3Error, RuntimeError):
    """onnxruntime, or the hardware behind it, that cannot run the model."""

    exit_code = 7


class TooLargeError(Q3Error, MemoryError):
    """A text whose run does not fit in memory, alone. ``available`` is None where the system did not say, or was wrong."""

    exit_code = 7

    def __init__(self, index: int, tokens: int, needed: int, available: int | None) -> None:
        self.index, self.tokens, self.needed, self.available = index, tokens, needed, available
        need = f"needs about {needed / 1e6:,.0f} MB of memory" if needed else "does not fit in memory"
        there = "it could not be had" if available is None else f"{available / 1e6:,.0f} MB are available"
        self.lack = f"with {tokens} tokens {need}, {there}"
        super().__init__(
            f"text {index} {self.lack}; shorten or split the text, or close other programs "
            "(batches of several texts are halved by themselves)"
        )


class BusyError(Q3Error):
    """Someone else is writing to the same place."""

    exit_code = 75


class StoppedError(Q3Error):
    """Work that was stopped before its end and can be gone on with."""

    exit_code = 75


def disk_message(error: OSError, place: object = None) -> str:
    """An error of the file system in our form; ``place`` is named where it does not say where itself."""
    where = f"{error.filename or place}: " if error.filename or place else ""
    return f"{where}{error.strerror or error}; check the path, its permissions and the free space"


def memory_message(error: MemoryError) -> str:
    """An error of memory in our form."""
    said = " ".join(str(error).split())[:200]
    return f"not enough memory{f' ({said})' if said else ''}; close other programs, or take fewer workers"


def _named(index: int | None) -> str:
    return "the prompt" if index is None else f"text {index}"
