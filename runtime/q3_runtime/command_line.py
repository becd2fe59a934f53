"""What ``q3`` and ``q3-export`` share: one line for an error, exit codes, clean ends on signals."""

import json
import os
import signal
import sys
import traceback
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

from q3_runtime.errors import ProviderError, Q3Error, StoppedError, StorageError, disk_message, memory_message


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived."""


class _Log:
    """Standard error for as long as anybody takes it: no work ends because what is said of it has no reader any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BlockingIOError:  # a reader that is slow, of a pipe that somebody made non-blocking
            return len(text)
        except OSError:
            _lead_to_nowhere(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BlockingIOError:
            pass
        except OSError:
            _lead_to_nowhere(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Parser(ArgumentParser):
    """argparse's; no flag may be cut short, and an error is one line, without all the usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | options)

    def error(self, message: str) -> NoReturn:
        """Exit code 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}; type: {self.prog} --help\n")


def run_safely(program: str, run: Callable[[Namespace], int], args: Namespace) -> int:
    """Run a command; any failure becomes one line on standard error and an exit code of errors.py.

    ``args.debug`` shows the traceback, ``args.json`` prints the error as a JSON object, both where they exist.
    """
    _prepare_streams()
    log, sys.stderr = sys.stderr, cast("TextIO", _Log(sys.stderr))
    warnings.showwarning = lambda message, *_, **__: print(f"{program}: warning: {message}", file=sys.stderr)
    arrived: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if hasattr(signal, "SIGHUP"):  # shell and kernel both send it: the second must not break off the cleaning up
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup has it ignored
        signal.signal(signal.SIGHUP, stop)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a background job of a shell has it ignored
        signal.signal(signal.SIGINT, stop)
    try:
        code = run(args)
        sys.stdout.flush()  # a full disk, or a reader that has left, is met here and not when Python exits
        return code
    except BrokenPipeError:  # the reader of standard output, head say, has left
        return 0
    except KeyboardInterrupt:
        return interrupted(program)
    except (Terminated, Exception) as error:
        if arrived and not isinstance(error, StoppedError):  # C code, or an import, may have made it of what was raised
            if arrived[0] == signal.SIGINT:
                return interrupted(program)
            print(f"{program}: terminated; nothing half-written was left behind", file=sys.stderr)
            return 143
        if isinstance(error, Q3Error):
            return _failed(program, args, error, error.exit_code, error.fault)
        if isinstance(error, OSError):
            return _failed(program, args, error, StorageError.exit_code, "E_IO", disk_message(error))
        if isinstance(error, MemoryError):
            return _failed(program, args, error, ProviderError.exit_code, "E_MEMORY", memory_message(error))
        hint = "run again with --debug and report it"
        return _failed(program, args, error, 1, "E_BUG", f"unexpected {type(error).__name__}: {error}; {hint}")
    finally:
        _discard_unwritable_output()
        sys.stderr.flush()
        sys.stderr = log


def interrupted(program: str) -> int:
    """Say that Ctrl-C ended it; the exit code."""
    print(f"\n{program}: interrupted; nothing half-written was left behind", file=sys.stderr)
    return 130


def print_json(content: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(content, ensure_ascii=False, indent=2))


def _failed(
    program: str, args: Namespace, error: BaseException, code: int, fault: str | None, message: str | None = None
) -> int:
    if getattr(args, "debug", False):
        traceback.print_exception(error)
    line = " ".join((message or str(error)).split())
    if getattr(args, "json", False):
        print(json.dumps({"error": {"message": line, "fault": fault, "exit_code": code}}, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"{program}: error{f'[{fault}]' if fault else ''}: {line}", file=sys.stderr)
    return code


def _prepare_streams() -> None:
    """Standard streams that a caller has closed lead to nowhere; output is UTF-8, on Windows too, whatever is in a path."""
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _discard_unwritable_output() -> None:
    """What standard output did not take must not fail a second time, with a traceback, when Python exits."""
    try:
        sys.stdout.flush()
    except OSError:
        _lead_to_nowhere(sys.stdout)


def _lead_to_nowhere(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
