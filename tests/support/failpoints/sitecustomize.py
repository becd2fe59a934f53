"""Read by every Python that has this folder in PYTHONPATH: makes a process of q3 bulk die, or its disk fail, at one place.

``Q3_FAILPOINT=NAME:ARGUMENT``. A file that is named as the argument is made first, so that it happens once.
"""

import errno
import os
import signal
from pathlib import Path

name, _, argument = os.environ.get("Q3_FAILPOINT", "").partition(":")


def die_once(*_, **__):
    try:
        Path(argument).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def before(module, function, action=die_once):
    real = getattr(module, function)

    def called(*args, **options):
        action(*args, **options)
        return real(*args, **options)

    setattr(module, function, called)


def after(module, function):
    real = getattr(module, function)

    def called(*args, **options):
        found = real(*args, **options)
        die_once()
        return found

    setattr(module, function, called)


def die_of_poison(_tokenizer, texts, **_options):
    if any(argument in text for text in texts):
        os.kill(os.getpid(), signal.SIGKILL)


def half_a_file(_table, target):
    if not Path(argument).exists():
        target.write(b"PAR1 and no more")
        target.flush()
        die_once()


def stale_twice(*_, **__):
    seen = Path(argument)
    count = int(seen.read_text()) if seen.exists() else 0
    seen.write_text(str(count + 1))
    if count < 2:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


if name:
    from q3_runtime import tokenization
    from q3_runtime.bulk import attempts, duplicates, finishing, parts

    {
        "poison": lambda: before(tokenization.Tokenizer, "encode", die_of_poison),
        "planning": lambda: before(duplicates.IdFiles, "repeated"),
        "writing": lambda: before(parts, "write_table", half_a_file),
        "before the name": lambda: before(parts, "publish"),
        "after the name": lambda: after(parts, "publish"),
        "before the end": lambda: before(attempts.Attempts, "end"),
        "before the manifest": lambda: before(finishing, "versions"),
        "no room for success": lambda: before(finishing, "write_synced", no_room),
        "before success": lambda: before(finishing, "write_synced"),
        "stale": lambda: before(parts, "publish", stale_twice),
    }[name]()
