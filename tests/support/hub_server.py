"""A look-alike of the hub on loopback: the endpoints that huggingface_hub calls, and switches for what can go wrong."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub_files import File, is_large
from tests.support.hub_uploads import UploadHandler, Uploads


@dataclass
class Hub:
    """Repositories and faults. ``asked`` lists every request: "GET /api/models/ORG/NAME"."""

    url: str
    commits: dict[str, dict[str, dict[str, File]]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None
    refuse: tuple[int, str] | None = None
    """Status and error code of every answer, with ``page`` as its body."""
    page: bytes = b"{}"
    cut: dict[str, int] = field(default_factory=dict)
    """File → how many of its answers break off at half of what was asked for. -1: all, those to a range before a byte."""
    wrong: dict[str, bytes] = field(default_factory=dict)
    """File → what is delivered in its place, under its own hash."""
    uploads: Uploads = field(default_factory=Uploads)
    before_delivery: Callable[[str], object] = str
    """Called with a file's name when its content is asked for."""

    def add(self, repo: str, folder: Path | Mapping[str, bytes], *, commit: str | None = None, branch: str = "main") -> str:
        """Commit all files of a folder; returns the commit's sha."""
        if isinstance(folder, Path):
            folder = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        files = {name: File(content, is_large(name)) for name, content in sorted(folder.items())}
        lines = "".join(f"{name} {file.etag}\n" for name, file in files.items())
        commit = commit or hashlib.sha1(lines.encode()).hexdigest()
        self.commits.setdefault(repo, {})[commit] = files
        self.branches.setdefault(repo, {})[branch] = commit
        return commit

    def delivered(self) -> list[str]:
        """Names of the files whose content was asked for, each once."""
        found = [line.rpartition("#")[2] for line in self.asked if line.startswith("GET ") and "#" in line]
        return sorted(set(found))


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub on a free port of loopback; ``stop()`` ends it early."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = server.hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    stopped = threading.Event()

    def stop() -> None:
        if not stopped.is_set():
            stopped.set()
            server.shutdown()
            server.server_close()
            thread.join()

    hub.stop = stop
    try:
        yield hub
    finally:
        stop()


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """What a command needs to take this hub for the hub; everything it keeps is under ``home``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    return kept | own | {"XDG_CACHE_HOME": str(home / "cache")} | more


class _Handler(UploadHandler, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub: Hub = self.server.hub  # type: ignore[attr-defined]
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        self.hub.tokens.append(self.headers.get("authorization"))
        if parts[0] == "cdn":
            _, org, name, commit, *file = parts
            self._note("/".join(file))
            return self._deliver(f"{org}/{name}", commit, "/".join(file))
        self._note("/".join(parts[4:]) if parts[2:3] == ["resolve"] else None)
        if self.hub.refuse is not None:
            return self._send(self.hub.refuse[0], {"X-Error-Code": self.hub.refuse[1]}, self.hub.page)
        if parts == ["api", "whoami-v2"]:
            return self._whoami()
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repo not in self.hub.commits:
            return self._send(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}")
        revision = parts[5] if parts[0] == "api" and len(parts) > 5 else parts[3] if parts[0] != "api" else "main"
        commit = self.hub.branches[repo].get(revision, revision)
        if commit not in self.hub.commits[repo]:
            return self._send(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, b"{}")
        files = self.hub.commits[repo][commit]
        if parts[0] != "api":
            return self._resolve(repo, commit, "/".join(parts[4:]))
        if parts[4:5] == ["tree"]:
            return self._send_json([_tree_entry(name, file) for name, file in files.items()])
        blobs = "blobs" in parse_qs(url.query)
        siblings = [_sibling(name, file) if blobs else {"rfilename": name} for name, file in files.items()]
        return self._send_json({"id": repo, "sha": commit, "private": False, "tags": [], "downloads": 0, "siblings": siblings})

    def _resolve(self, repo: str, commit: str, name: str) -> None:
        file = self.hub.commits[repo][commit].get(name)
        if file is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b"")
        if file.large:
            linked = {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content)), "X-Repo-Commit": commit}
            return self._send(302, linked | {"Location": f"{self.hub.url}/cdn/{repo}/{commit}/{name}"}, b"")
        return self._deliver(repo, commit, name)

    def _deliver(self, repo: str, commit: str, name: str) -> None:
        if self.command == "GET":
            self.hub.before_delivery(name)
        file = self.hub.commits[repo].get(commit, self.hub.commits[repo][self.hub.branches[repo]["main"]])[name]
        content = self.hub.wrong.get(name, file.content)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = content[start:]
        left = self.hub.cut.get(name, 0)
        if left and self.command == "GET":
            self.hub.cut[name] = left - 1 if left > 0 else left
            half = part[: len(part) // 2] if left > 0 or not start else b""
            self._send(206 if start else 200, headers, half, promised=len(part))
            self.close_connection = True
            return
        self._send(206 if start else 200, headers, part)

    def _note(self, file: str | None) -> None:
        self.hub.asked.append(f"{self.command} {self.path}" + (f"#{file}" if file else ""))

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, promised: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _sibling(name: str, file: File) -> dict[str, object]:
    entry: dict[str, object] = {"rfilename": name, "size": len(file.content), "blobId": file.blob_id}
    return entry | ({"lfs": {"sha256": file.sha256, "size": len(file.content), "pointerSize": 134}} if file.large else {})


def _tree_entry(name: str, file: File) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(file.content), "oid": file.blob_id}
    return entry | ({"lfs": {"oid": file.sha256, "size": len(file.content), "pointerSize": 134}} if file.large else {})
