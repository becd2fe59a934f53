"""Clients by the hundred in one event loop, over plain sockets: requests at a fixed rate, or all at once."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tests.support.server import PATIENCE, request


@dataclass
class Outcome:
    """One request. ``status`` is 0 where no whole answer came, and ``problem`` says why."""

    status: int = 0
    seconds: float = 0.0
    content: Any = None
    problem: str = ""


async def ask(port: int, path: str, content: Any, *, due: float | None = None) -> Outcome:
    """One request on a connection of its own. Seconds are counted from when it was due, which is open loop."""
    started = due or time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            return await _exchange(*await asyncio.open_connection("127.0.0.1", port), path, content, started)
    except (OSError, TimeoutError) as error:
        return Outcome(0, time.monotonic() - started, problem=f"{type(error).__name__} {error}")


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, content: Any, started: float
) -> Outcome:
    outcome = Outcome()
    try:
        writer.write(request(path, content, "connection: close"))
        await writer.drain()
        headers, _, payload = (await reader.read()).partition(b"\r\n\r\n")
        status, outcome.content = int(headers.split()[1]), json.loads(payload)
        outcome.status = status
    except (OSError, ValueError, IndexError) as error:
        outcome.problem = f"{type(error).__name__} {error}"
    finally:
        writer.close()
    outcome.seconds = time.monotonic() - started
    return outcome


async def open_loop(port: int, path: str, contents: Sequence[Any], rate: float) -> list[Outcome]:
    """Requests that are due at a fixed rate, however long the answers take."""
    begin, tasks = time.monotonic(), []
    for number, content in enumerate(contents):
        due = begin + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(ask(port, path, content, due=due)))
    return list(await asyncio.gather(*tasks))


def at_rate(port: int, path: str, contents: Sequence[Any], rate: float) -> list[Outcome]:
    """See :func:`open_loop`."""
    return asyncio.run(open_loop(port, path, contents, rate))


def at_once(port: int, path: str, contents: Sequence[Any]) -> list[Outcome]:
    """All connections are opened before anything is sent, then all requests are sent."""

    async def main() -> list[Outcome]:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in contents]
        started = time.monotonic()
        asked = zip(opened, contents, strict=True)
        return list(await asyncio.gather(*(_exchange(*streams, path, content, started) for streams, content in asked)))

    return asyncio.run(main())


def percentile(outcomes: Sequence[Outcome], share: float) -> float:
    """Of the seconds."""
    return float(np.percentile([outcome.seconds for outcome in outcomes], share))
