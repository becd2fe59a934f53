"""A request → its answer: key, readiness, body, the route's work, and errors in the words of its dialect. No text is logged."""

import asyncio
import hmac
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.resources import files
from time import monotonic
from traceback import format_tb
from typing import Any
from uuid import uuid4

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from q3_runtime.server import json_body, openapi
from q3_runtime.server.connection import ANSWERED
from q3_runtime.server.endpoints import ENDPOINTS, Endpoint, Reply, answer_bytes, dialect_of, for_body
from q3_runtime.server.metrics import Metrics
from q3_runtime.server.models import Models
from q3_runtime.server.refusals import RefusedError, overloaded
from q3_runtime.server.reply_headers import headers_of, in_ascii
from q3_runtime.server.schemas import place_of, unknown_fields

LOG = logging.getLogger("q3.serve")
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII)
MOST_BODY_BYTES, SMALL_BODY = 64_000_000, 65_536
"""Of all bodies that are being received, together; small ones are read all the same."""
MOST_ANSWER_BYTES = 256_000_000
"""Of all answers that are being made or that clients have not taken yet; above, requests get 429."""
PAGE_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"


@dataclass
class Service:
    """What the routes share."""

    models: Models = field(default_factory=Models)
    metrics: Metrics = field(default_factory=Metrics)
    api_key: str | None = None
    payload_limit: int = 2_000_000
    """Bytes of one body."""
    is_ready: bool = False
    is_stopping: bool = False
    running: int = 0
    """Requests that were read and not answered."""
    receiving: int = 0
    """Bytes of bodies that are being received."""
    sending: int = 0
    """Bytes of answers that clients have not taken yet, and of those that are being made, as far as they are foreseen."""


class Room:
    """What one answer has of the bytes that all may have together."""

    def __init__(self, service: Service) -> None:
        self._service, self._size = service, 0

    def ask(self, size: int) -> None:
        """For an answer of about so many bytes. While there is no other, any may be made, however large it is.

        Raises:
            RefusedError: the others leave too little.
        """
        others = self._service.sending
        if others and others + size > MOST_ANSWER_BYTES:
            raise overloaded()
        self.set(size)

    def set(self, size: int) -> None:
        """It has so many now."""
        self._service.sending += size - self._size
        self._size = size


def create_app(service: Service) -> ASGIApp:
    """The ASGI application; ``service.is_ready`` says when its models are there."""

    async def ready(_request: Request) -> Response:
        is_up = service.is_ready and not service.is_stopping
        return Response(status_code=200) if is_up else _error(RefusedError("not_ready", "unhealthy"), "tei")

    async def live(_request: Request) -> Response:
        return Response(status_code=200)

    async def metrics(_request: Request) -> Response:
        service.metrics.ready.set(service.is_ready and not service.is_stopping)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(_request: Request) -> Response:
        content = files("q3_runtime.server").joinpath("page.html").read_text("utf-8")
        return HTMLResponse(content, headers={"content-security-policy": PAGE_POLICY, "x-content-type-options": "nosniff"})

    async def document(_request: Request) -> Response:
        return _json(openapi.document())

    public: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/": page, "/health": ready, "/ready": ready, "/ping": ready, "/live": live, "/metrics": metrics,
        "/api-doc/openapi.json": document,
    }  # fmt: skip
    routes = [Route(path, answer, methods=["GET"]) for path, answer in public.items()]
    routes += [Route(row.path, Handler(service, row), methods=["POST" if row.body else "GET"]) for row in ENDPOINTS]

    def refused(request: Request, code: str, message: str, **headers: str) -> Response:
        service.metrics.refused.labels(code).inc()
        return _error(RefusedError(code, message, headers=headers), dialect_of(request.url.path))

    async def not_found(request: Request, _: Exception) -> Response:
        return refused(request, "not_found", f"no such path, here are {', '.join(row.path for row in ENDPOINTS)}")

    async def not_allowed(request: Request, _: Exception) -> Response:
        at_path = (route.methods or () for route in routes if route.path == request.url.path)
        allowed = ", ".join(sorted(method for methods in at_path for method in methods))
        return refused(request, "method_not_allowed", f"the method is not allowed, expected {allowed}", allow=allowed)

    app = Starlette(routes=routes, exception_handlers={404: not_found, 405: not_allowed})
    app.router.redirect_slashes = False  # it would send text and key to wherever the Host header says

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        """A server that stops says with every answer that it was the last of its connection."""

        async def send_last(message: Message) -> None:
            if service.is_stopping and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await app(scope, receive, send_last)

    return served


class Handler:
    """ASGI: one row of the table of routes."""

    def __init__(self, service: Service, endpoint: Endpoint) -> None:
        self._service, self._endpoint = service, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whose client leaves gets none."""
        room = Room(self._service)

        async def send_until_taken(message: Message) -> None:
            if message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                message = {"type": "http.response.body", "body": b""}  # before it, uvicorn waits until the client has the rest
            await send(message)

        try:
            response = await self._response(Request(scope, receive), receive, room)
            if response is not None:
                room.set(len(response.body))
                await response(scope, receive, send_until_taken)
        finally:
            room.set(0)

    async def _response(self, request: Request, receive: Receive, room: Room) -> Response | None:
        """Apart, so that nothing but its bytes is kept while a client takes an answer. None: the client has left."""
        started, service = monotonic(), self._service
        request_id = uuid4().hex
        headers = {"x-request-id": request_id}
        dialect: str = self._endpoint.dialect
        try:
            self._check(request)
            endpoint, body = self._endpoint, None
            if endpoint.body is not None:
                content = json_body.parse(await self._body(request))
                endpoint = for_body(endpoint, content)
                dialect = endpoint.dialect
                body = _validated(endpoint, content)
                room.ask(answer_bytes(service.models, body))
            reply = await self._worked(endpoint, body, receive)
            response = _json(reply.content)
            headers |= headers_of(reply.work, monotonic() - started)
            if body is not None and (unknown := unknown_fields(body)):
                headers["x-q3-ignored-fields"] = in_ascii(", ".join(unknown))
        except ClientDisconnect:
            if ANSWERED not in request.scope:
                service.metrics.cancelled.labels(self._endpoint.path).inc()
            return None
        except RefusedError as refusal:
            service.metrics.refused.labels(refusal.code).inc()
            response = _error(refusal, dialect, request_id)
        except Exception as error:
            # Frames hold no text of the client's; the error's message may.
            LOG.error("request %s: %s\n%s", request_id, type(error).__name__, "".join(format_tb(error.__traceback__)))
            service.metrics.refused.labels("internal_error").inc()
            response = _error(RefusedError("internal_error", f"a bug; look for {request_id} in the log"), dialect, request_id)
        response.headers.update(headers)
        service.metrics.requests.labels(self._endpoint.path, str(response.status_code)).inc()
        service.metrics.seconds.labels(self._endpoint.path).observe(monotonic() - started)
        return response

    def _check(self, request: Request) -> None:
        """What the headers alone tell."""
        service = self._service
        host = request.headers.get("host", "")
        if host and not HOST.fullmatch(host):
            raise RefusedError("invalid_host", "the Host header is not a name with a port")
        if key := service.api_key:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode("utf-8"), key.encode("utf-8")):
                asked = {"www-authenticate": "Bearer"}
                raise RefusedError("unauthorized", "no valid API key, expected Authorization: Bearer KEY", headers=asked)
        if not service.is_ready:
            raise RefusedError("not_ready", "unhealthy", headers={"retry-after": "1"})
        if self._endpoint.body is None:
            return
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RefusedError(
                "unsupported_encoding", "Content-Encoding is not supported, send the body as it is", headers=CLOSE
            )
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError("unsupported_media_type", "expected Content-Type: application/json", headers=CLOSE)
        if service.running >= service.models.max_concurrent_requests or service.sending > MOST_ANSWER_BYTES:
            raise overloaded(**CLOSE)
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > service.payload_limit:
            raise self._too_large()

    async def _body(self, request: Request) -> bytes:
        """The body, while there is room for it."""
        service, parts, size = self._service, [], 0
        try:
            async for part in request.stream():
                size += len(part)
                service.receiving += len(part)
                if size > service.payload_limit:
                    raise self._too_large()
                # Small ones always find a place, whoever fills the rest.
                if size > SMALL_BODY and service.receiving > max(MOST_BODY_BYTES, 2 * service.payload_limit):
                    raise overloaded(**CLOSE)
                parts.append(part)
        finally:
            service.receiving -= size
        return b"".join(parts)

    def _too_large(self) -> RefusedError:
        most = self._service.payload_limit
        return RefusedError("body_too_large", f"the body has more than {most} bytes; send it in parts", headers=CLOSE)

    async def _worked(self, endpoint: Endpoint, body: Any, receive: Receive) -> Reply:
        """What the route gives, unless the client leaves before."""
        service = self._service
        if service.running >= service.models.max_concurrent_requests:
            raise overloaded()
        service.running += 1
        work = asyncio.ensure_future(endpoint.answer(service.models, body))
        left = asyncio.ensure_future(_departure(receive))
        try:
            await asyncio.wait([work, left], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            return work.result()
        finally:
            service.running -= 1
            for task in (work, left):
                task.cancel()


CLOSE = {"connection": "close"}
"""For an answer that comes before the body was read."""


def _validated(endpoint: Endpoint, content: dict[str, Any]) -> Any:
    """The body as the route wants it; the first thing that is wrong is named by its place."""
    assert endpoint.body is not None
    try:
        return endpoint.body.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place, said = place_of(first["loc"]), first["msg"].removeprefix("Value error, ")
        item = said.partition(" ")[0] if said.startswith("[") else ""
        code = "invalid_text" if first["type"] == "invalid_text" else "invalid_value"
        raise RefusedError(code, f"`{place}`: {said}", param=place + item) from error


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(content: Any, status: int = 200) -> Response:
    """Arrays of numpy too; float32 in as few digits as tell it from its neighbours."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")


def _error(refusal: RefusedError, dialect: str, request_id: str | None = None) -> Response:
    request_id = request_id or uuid4().hex
    response = _json(refusal.body(dialect, request_id), refusal.reason.status)
    response.headers.update({"x-request-id": request_id} | refusal.headers)
    return response
