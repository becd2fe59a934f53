"""``q3 serve`` in a process of its own, asked over sockets as any client would."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.memory import resident

STARTER = """
import sys
from q3_runtime.server import connection, serving
for name, value in {seconds!r}.items():
    setattr(connection, name, value)
{also}
from q3_runtime.cli import main
sys.exit(main(sys.argv[1:]))
"""
PATIENCE = 60.0


@dataclass(frozen=True)
class Answer:
    """``content`` is what the JSON holds, or the text where it is none."""

    status: int
    headers: Mapping[str, str]
    content: Any

    @property
    def message(self) -> str:
        """Of an error, in either dialect."""
        error = self.content["error"]
        return error if isinstance(error, str) else error["message"]


@dataclass
class Server:
    """A server that has said that it is ready."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    patience: float = PATIENCE
    """Seconds for an answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.patience)
        try:
            connection.request(method, path, body, dict(headers or {}))
            return read(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, content: Any, **headers: str) -> Answer:
        """``content`` as JSON; bytes as they are."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, body, {"content-type": "application/json"} | named)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def raw(self, data: bytes, *, seconds: float = PATIENCE) -> bytes:
        """Everything that comes back on one connection until it is closed."""
        with self.connect() as client:
            client.settimeout(seconds)
            client.sendall(data)
            return read_all(client)

    def memory(self) -> int:
        return resident(self.process.pid)

    def figure(self, name: str, **labels: str) -> float:
        """A line of /metrics; 0 where there is none yet."""
        named = ",".join(f'{key}="{value}"' for key, value in labels.items())
        line = f"{name}{{{named}}}" if named else name
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.get("/metrics").content, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def not_under_nohup() -> None:
    """For a process that is to be sent SIGHUP: nohup has it ignored, and tests may run under it."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def request(path: str, content: Any, *headers: str) -> bytes:
    """A POST of JSON as it goes over the wire."""
    body = json.dumps(content).encode()
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", f"content-length: {len(body)}"]
    return "".join(f"{line}\r\n" for line in [*lines, *headers, ""]).encode() + body


def read(response: http.client.HTTPResponse) -> Answer:
    raw = response.read()
    kind = response.headers.get("content-type", "")
    content = json.loads(raw) if kind.startswith("application/json") else raw.decode()
    return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, content)


def read_all(client: socket.socket) -> bytes:
    """Until the other side closes. A reset raises."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def launched(
    *arguments: object, log: Path, environment: Mapping[str, str] | None = None, seconds: Mapping[str, float] | None = None,
    also: str = "", cwd: Path | None = None,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """The process. ``seconds`` replaces deadlines of the connection, ``also`` is run before it starts."""
    kept = {name: value for name, value in os.environ.items() if name != "Q3_API_KEY"}
    code = STARTER.format(seconds=dict(seconds or {}), also=also)
    command = [sys.executable, "-c", code, "serve", *map(str, arguments)]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=kept | dict(environment or {}), cwd=cwd)


def wait_for(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> re.Match[str]:
    """The first match in what the process has said."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := re.search(pattern, log.read_text("utf-8")):
            return found
        assert process.poll() is None, log.read_text("utf-8")
        time.sleep(0.02)
    raise AssertionError(f"no {pattern!r} in: {log.read_text('utf-8')}")


@contextmanager
def serving(*arguments: object, log: Path, **options: Any) -> Iterator[Server]:
    """A server on a free port, until the block ends."""
    process = launched(*arguments, "--port", 0, log=log, **options)
    try:
        port = int(wait_for(log, r"ready on http://\S+:(\d+)", process)[1])
        yield Server(process, port, log)
    finally:
        process.kill()
        process.wait()
