"""The process: a socket that is bound at once, models that are loaded behind it, and an end in which nobody is left waiting."""

import asyncio
import ctypes
import errno
import ipaddress
import os
import re
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import uvicorn

from q3_runtime.embedder import Embedder
from q3_runtime.errors import StorageError, UsageError
from q3_runtime.manifest import Manifest
from q3_runtime.model_folder import find_folder
from q3_runtime.quants import QUANTS
from q3_runtime.reranker import Reranker
from q3_runtime.server.application import Service, create_app
from q3_runtime.server.connection import IDLE_SECONDS, Connection
from q3_runtime.server.served_model import ServedModel

NAMED = re.compile(r"([\w.-]+)=(.+)")
BACKLOG = 4096
"""Connections that wait to be accepted; Linux's own default limit."""
OPEN_FILES = 65_536
STOP_SECONDS = 30
"""How long what was accepted may take to be answered once the server was told to stop."""
GRACE_SECONDS = 0.5
"""How long an open connection may still send a request then; it is answered, and told that it was the last."""
LAST_ACCEPTS = 100
"""Turns of the event loop in which what the kernel has taken in is accepted, before the socket is closed."""
SO_ATTACH_FILTER = 26
"""Of Linux; Python has no name for it."""


class ModelName(NamedTuple):
    """One ``--model``."""

    name: str | None
    folder: str
    quant: str | None


def parse_model(text: str) -> ModelName:
    """``[NAME=]DIR[:quant]``. A folder that is there is taken whole, whatever its name."""
    if Path(text).is_dir():
        return ModelName(None, text, None)
    found = NAMED.fullmatch(text)
    name, place = found.groups() if found else (None, text)
    folder, colon, quant = place.rpartition(":")
    if colon and not Path(place).is_dir() and (quant in QUANTS or Path(folder).is_dir()):
        return ModelName(name, folder, quant)
    return ModelName(name, place, None)


@dataclass
class Options:
    """How to serve: where, what, with how many threads. The limits of requests are the service's."""

    models: Sequence[ModelName]
    host: str = "127.0.0.1"
    port: int = 8080
    provider: str = "auto"
    threads: int | None = None
    auto_truncate: bool = True


def serve(options: Options, service: Service) -> None:
    """Serve until SIGTERM, SIGHUP or Ctrl-C, then answer what was accepted and return; a second signal ends the process.

    Raises:
        UsageError: an address that others can reach, without a key; two models of one name.
        StorageError: the address is taken or cannot be had.
        Q3Error: a model cannot be loaded.
    """
    if not _is_loopback(options.host) and service.api_key is None:
        raise UsageError(
            f"--host {options.host} can be reached by others and no API key is set; set Q3_API_KEY or --api-key-file, "
            "or serve on 127.0.0.1"
        )
    with _listening(options.host, options.port) as listener:
        _allow_many_connections()
        asyncio.run(_serve(options, service, listener))
    for model in service.models.served:
        model.close()
    sys.stderr.flush()
    if any(model.computes for model in service.models.served):
        os._exit(0)  # a run cannot be broken off, and nobody waits for it


async def _serve(options: Options, service: Service, listener: socket.socket) -> None:
    protocol: Any = partial(Connection, service.metrics)  # uvicorn only calls it
    config = uvicorn.Config(
        create_app(service), http=protocol, ws="none", lifespan="off", loop="asyncio", log_config=None, log_level="error",
        access_log=False, server_header=False, proxy_headers=False, backlog=BACKLOG, timeout_keep_alive=int(IDLE_SECONDS),
        timeout_graceful_shutdown=STOP_SECONDS,
    )  # fmt: skip
    server = Server(config, service)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    loading = asyncio.create_task(_load(options, service, address))
    loading.add_done_callback(lambda _: None if service.is_ready else server.stop())
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # uvicorn takes the other two
        signal.signal(signal.SIGHUP, server.handle_exit)
    await server.serve(sockets=[listener])
    if service.running:
        _say(f"{service.running} request(s) were not answered within {STOP_SECONDS} s")
    if not loading.done():
        sys.stderr.flush()
        os._exit(0)  # a model that is being loaded cannot be told to stop
    loading.result()


class Server(uvicorn.Server):
    """uvicorn's, with another end: nothing that was accepted is lost, and a second signal does not wait."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def stop(self) -> None:
        """From now on ``/ready`` is 503 and every answer is the last of its connection."""
        self._service.is_stopping = True
        self.should_exit = True

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """A signal: stop; another one: now. Of a terminal that is closed SIGHUP comes twice, and may come behind SIGTERM."""
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if self.should_exit:
            os._exit(128 + sig)
        self.stop()
        _say(f"stopping, within {STOP_SECONDS} s; once more stops at once")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept what has come, close the socket, answer."""
        for listener in sockets or []:
            _refuse_new_connections(listener)
        await asyncio.sleep(GRACE_SECONDS)
        for listener in sockets or []:
            for _ in range(LAST_ACCEPTS):
                if not select.select([listener], [], [], 0)[0]:
                    break
                await asyncio.sleep(0)
        await super().shutdown(sockets)


async def _load(options: Options, service: Service, address: str) -> None:
    """One after the other, in a thread: ``/live`` answers meanwhile."""
    loop = asyncio.get_running_loop()
    for wanted in options.models:
        _say(f"loading {wanted.folder}")
        model = await loop.run_in_executor(None, _opened, wanted, options)
        name = wanted.name or str(model.manifest.source["id"])
        if name in [served.name for served in service.models.served]:
            raise UsageError(f"two models are called {name!r}, expected a name each; pass --model NAME=DIR")
        served = ServedModel(name, model, service.models.limits, service.metrics, auto_truncate=options.auto_truncate)
        await loop.run_in_executor(None, served.prepare)
        service.models.served.append(served)
        _say(f"{name}: {model.quant} on {model.provider}")
    service.is_ready = True
    _say(f"ready on {address}")


def _opened(wanted: ModelName, options: Options) -> Embedder | Reranker:
    kind = Manifest.read(find_folder(wanted.folder, lambda _: ())).kind
    loader: type[Embedder | Reranker] = Embedder if kind == "embedding" else Reranker
    return loader(wanted.folder, quant=wanted.quant, provider=options.provider, threads=options.threads)


def _listening(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        StorageError: it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if os.name == "posix":  # on Windows it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:  # of a name that is none: it is encoded first
        is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise StorageError(
            f"cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}; "
            f"{'stop what listens there, or ' if is_taken else ''}pass another --port (0 takes a free one) or --host"
        ) from error
    return listener


def _refuse_new_connections(listener: socket.socket) -> None:
    """Let the kernel finish the connections that it has begun, and begin none.

    A connection that the kernel has completed and we have not accepted is reset when the socket is closed. On Linux a filter
    (classic BPF, over the TCP header: where the SYN flag is set, keep 0 bytes) drops what would begin one, so that the last
    one can be accepted before the socket is closed. Elsewhere, or where a sandbox forbids it, a gap of a moment stays.
    """
    if sys.platform != "linux":
        return
    load_flags, is_syn, drop, keep = (0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in (load_flags, is_syn, drop, keep))
    instructions = ctypes.create_string_buffer(code, len(code))
    with suppress(OSError):
        program = struct.pack("HP", 4, ctypes.addressof(instructions))
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _allow_many_connections() -> None:
    """A connection is an open file."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _say(line: str) -> None:
    print(f"q3 serve: {line}", file=sys.stderr, flush=True)  # noqa: T201  # what happens to the server, not to requests
