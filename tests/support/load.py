"""Clients by the hundred in one event loop, over plain sockets: requests at a fixed rate, or all at once."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Outcome:
    """One request. ``status`` is 0 where no whole answer came, and ``problem`` says why."""

    status: int = 0
    seconds: float = 0.0
    content: Any = None
    problem: str = ""


async def ask(port: int, path: str, content: Any, *, due: float | None = None, patience: float = 60) -> Outcome:
    """One request on a connection of its own. Seconds are counted from when it was due, which is open loop."""
    body = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    outcome, started = Outcome(), due or time.monotonic()
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"{head}connection: close\r\n\r\n".encode() + body)
                await writer.drain()
                raw = await reader.read()
            finally:
                writer.close()
        headers, _, payload = raw.partition(b"\r\n\r\n")
        outcome.status = int(headers.split()[1])
        outcome.content = json.loads(payload)
    except (OSError, ValueError, IndexError, TimeoutError) as error:
        outcome.status, outcome.problem = 0, f"{type(error).__name__} {error}"
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
        bodies = [json.dumps(content).encode() for content in contents]
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in contents]

        async def one(number: int) -> Outcome:
            (reader, writer), body, started = opened[number], bodies[number], time.monotonic()
            head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
            try:
                writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
                raw = await reader.read()
                writer.close()
                headers, _, payload = raw.partition(b"\r\n\r\n")
                return Outcome(int(headers.split()[1]), time.monotonic() - started, json.loads(payload))
            except (OSError, ValueError, IndexError) as error:
                return Outcome(problem=f"{type(error).__name__} {error}")

        return list(await asyncio.gather(*map(one, range(len(opened)))))

    return asyncio.run(main())


def percentile(outcomes: Sequence[Outcome], share: float) -> float:
    """Of the seconds."""
    return float(np.percentile([outcome.seconds for outcome in outcomes], share))
