"""One connection: uvicorn's, which has no limits of its own on what a client sends, how slowly, and how slowly it reads.

uvicorn 0.54 knows one time limit, that of an idle connection. Deadlines here run from the first byte to the last and are not
put off by the bytes between.
"""

import asyncio
import os
import socket
import struct
import sys
from contextlib import suppress
from typing import Any
from uuid import uuid4

import h11
import orjson
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from q3_runtime.server.endpoints import dialect_of
from q3_runtime.server.metrics import Metrics
from q3_runtime.server.refusals import RefusedError

MOST_HEADERS = 64
MOST_HEADER_BYTES = 16_384
HEADER_SECONDS = 10.0
"""From the opening of a connection, or the first byte of a further request, to the end of its headers."""
BODY_SECONDS = 30.0
IDLE_SECONDS = 5.0
"""Between the requests of a connection."""
WRITE_SECONDS = 60.0
"""For a client to take what is written to it."""
LINGER_SECONDS = 2.0
"""An answer that comes before the whole request was read is lost when the connection is closed at once; so the rest is read
and thrown away for so long."""
ANSWERED = "q3.answered"
"""Key of a request's scope: the connection has answered it, its client has not left."""
CODES = {
    400: "bad_request",
    408: "request_timeout",
    431: "headers_too_large",
    501: "not_implemented",
    505: "http_version_not_supported",
}
"""Status of an answer that no route has given → its row in refusals.REASONS."""
SPARE_PARTS, LEAST_PART = 1024, 16
"""A body comes in at most SPARE_PARTS chunks, and one more for every LEAST_PART bytes."""


class LimitedConnection(h11.Connection):
    """h11, and refusals of what it would let pass."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MOST_HEADER_BYTES)
        self._parts = self._bytes = 0
        self.method = b""

    def next_event(self) -> Any:
        """As h11's.

        Raises:
            h11.RemoteProtocolError: with the status to answer.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._parts, self._bytes, self.method = 0, 0, event.method
            self._check(event)
        elif isinstance(event, h11.Data):
            self._parts, self._bytes = self._parts + 1, self._bytes + len(event.data)
            if self._parts > SPARE_PARTS + self._bytes / LEAST_PART:
                raise h11.RemoteProtocolError("the body comes in too many small parts", 400)
        return event

    def _check(self, request: h11.Request) -> None:
        names = [name for name, _ in request.headers]
        size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
        if len(names) > MOST_HEADERS or size > MOST_HEADER_BYTES:
            most = f"expected at most {MOST_HEADERS} headers of {MOST_HEADER_BYTES} bytes together"
            raise h11.RemoteProtocolError(f"too many headers, {most}", 431)
        if request.http_version not in (b"1.0", b"1.1"):
            raise h11.RemoteProtocolError("expected HTTP/1.1", 505)
        if b"content-length" in names and b"transfer-encoding" in names:
            raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding together", 400)


class Lingering:
    """A transport whose ``close`` first lets the other side take what was written and finish what it writes."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_closing_softly = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Nothing more is to be written."""
        return self.is_closing_softly or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Once it is closing, there is nobody to write to."""
        if not self.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Say that nothing more comes; what comes in is thrown away until the other side closes, or time is up."""
        if self.is_closing():
            return
        self.is_closing_softly = True
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.close)
        with suppress(OSError):  # the other side has gone
            self._transport.resume_reading()
            self._transport.write_eof()


class Connection(H11Protocol):
    """uvicorn's protocol for HTTP/1.1, with limits and deadlines."""

    def __init__(self, metrics: Metrics, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._metrics = metrics
        self._limited = LimitedConnection()
        self.conn = self._limited
        self._phase: str | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """The first request's headers are awaited."""
        transport.set_write_buffer_limits(high=0)  # so that pause_writing is called whenever a client lags behind
        self._lingering = Lingering(transport)
        super().connection_made(self._lingering)  # type: ignore[arg-type]
        self._enter("headers")

    def data_received(self, data: bytes) -> None:
        """Hand it on, unless the answer has gone out already."""
        if self._lingering.is_closing_softly:
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """A further request may begin."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._enter(None)
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Something is to be taken by the client."""
        super().pause_writing()
        self._write_deadline = self._write_deadline or self.loop.call_later(WRITE_SECONDS, self._cut_off)

    def resume_writing(self) -> None:
        """It took all of it."""
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _cut_off(self) -> None:
        """At once, with what the kernel still holds for this client."""
        if os.name == "posix":
            off = struct.pack("ii", 1, 0)  # struct linger: on, for 0 s
            self._lingering.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)
        self._lingering.abort()

    def eof_received(self) -> None:
        """The client says that it has sent everything, or is gone, which looks the same: it is gone."""

    def send_400_response(self, msg: str) -> None:
        """What is wrong with the request as HTTP, said by status and in JSON; then the connection is closed."""
        cause = sys.exc_info()[1]  # uvicorn calls this where it caught h11's
        if isinstance(cause, h11.RemoteProtocolError):
            self._answer(cause.error_status_hint, str(cause))
        else:
            self._answer(400, msg)

    def shutdown(self) -> None:
        """The server stops: an idle connection is closed, another one after its answer."""
        if self.conn.our_state is h11.IDLE and not self.conn.trailing_data[0]:
            self._lingering.close()
        elif self.cycle is not None:
            self.cycle.keep_alive = False

    def _watch(self) -> None:
        """Which part of a request is awaited now; a deadline runs for each."""
        if self.conn.their_state is h11.SEND_BODY:
            self._enter("body")
        elif self.conn.their_state is h11.IDLE:
            self._enter("headers" if self.conn.trailing_data[0] else "idle")
        else:
            self._enter(None)

    def _enter(self, phase: str | None) -> None:
        if phase == self._phase:
            return
        self._phase = phase
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if phase is not None:
            seconds = {"headers": HEADER_SECONDS, "body": BODY_SECONDS, "idle": IDLE_SECONDS}[phase]
            self._deadline = self.loop.call_later(seconds, self._too_slow, phase, seconds)

    def _too_slow(self, phase: str, seconds: float) -> None:
        self._deadline = None
        if phase != "body" and not self.conn.trailing_data[0]:  # idle, or opened and never used, as browsers do
            self._lingering.close()
            return
        self._answer(408, f"the {phase} took more than {seconds:g} s")

    def _answer(self, status: int, message: str) -> None:
        """An error that no route has seen, unless an answer is under way; the connection ends with it."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refused = RefusedError(CODES.get(status, "bad_request"), message)
            self._metrics.refused.labels(refused.code).inc()
            is_known = self.cycle is not None and not self.cycle.response_complete  # else it is of the request before
            dialect = dialect_of(self.cycle.scope["path"]) if is_known else "tei"
            content = orjson.dumps(refused.body(dialect, uuid4().hex))
            headers = [("content-type", "application/json"), ("content-length", str(len(content))), ("connection", "close")]
            parts: list[h11.Event] = [h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])]
            if self._limited.method != b"HEAD":
                parts.append(h11.Data(data=content))
            with suppress(h11.LocalProtocolError):  # the connection is beyond answers
                for part in [*parts, h11.EndOfMessage()]:
                    self._lingering.write(self.conn.send(part) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.scope[ANSWERED] = True  # type: ignore[literal-required]
            self.cycle.disconnected = True  # whoever still works on it need not
            self.cycle.message_event.set()
        self._lingering.close()
