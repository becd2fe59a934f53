"""The half of the hub's look-alike that takes: repositories made, large files by LFS, commits of many files at once."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.hub_files import is_large


@dataclass
class Uploads:
    """Who may write what, and what arrived."""

    users: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    """Token → name and organizations."""
    read_only: set[str] = field(default_factory=set)
    """Tokens that may not write."""
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Parts of addresses to which nothing may be posted → the answer there."""
    wrong_in_cards: list[str] = field(default_factory=list)
    """What is answered of every card's head."""
    private: set[str] = field(default_factory=set)
    """Repositories that were made private."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """LFS objects by their sha256."""
    messages: list[str] = field(default_factory=list)
    """Of the commits."""
    damage: bytes = b""
    """Put behind every LFS object that arrives."""


class UploadHandler(BaseHTTPRequestHandler):
    """POST and PUT; the rest of a handler that has ``hub`` and ``_send_json`` uses it."""

    def do_POST(self) -> None:
        self.hub = self.server.hub  # type: ignore[attr-defined]
        parts = self.path.partition("?")[0].strip("/").split("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._note(None)  # type: ignore[attr-defined]
        if parts[:2] == ["api", "validate-yaml"]:
            wrong = [{"message": message} for message in self.hub.uploads.wrong_in_cards]
            return self._send_json({"errors": wrong, "warnings": []}, 400 if wrong else 200)
        user = self._user()
        if user is None:
            return self._refuse(401)
        token = self.headers["authorization"].removeprefix("Bearer ")
        made = json.loads(body) if parts[:3] == ["api", "repos", "create"] else None
        org = (made.get("organization") or user[0]) if made else parts[0] if parts[0] != "api" else parts[2]
        for path, (status, said) in self.hub.uploads.refused.items():
            if path in self.path:
                return self._refuse(status, said)
        if org not in (user[0], *user[1]) or token in self.hub.uploads.read_only:
            return self._refuse(403)
        if made:
            return self._create(f"{org}/{made['name']}", private=made.get("private") or made.get("visibility") == "private")
        if self.path.endswith("/info/lfs/objects/batch"):
            return self._send_json(
                {"transfer": "basic", "objects": [self._action(item) for item in json.loads(body)["objects"]]}
            )
        if parts[4] == "preupload":
            modes = [(entry["path"], "lfs" if is_large(entry["path"]) else "regular") for entry in json.loads(body)["files"]]
            return self._send_json(
                {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]}
            )
        return self._commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines() if line])

    def do_PUT(self) -> None:
        self.hub = self.server.hub  # type: ignore[attr-defined]
        content = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.rpartition("/")[2]
        right = hashlib.sha256(content).hexdigest() == name
        if right:
            self.hub.uploads.objects[name] = content + self.hub.uploads.damage
        self._send(200 if right else 400, {}, b"")  # type: ignore[attr-defined]

    def _user(self) -> tuple[str, list[str]] | None:
        return self.hub.uploads.users.get((self.headers.get("authorization") or "").removeprefix("Bearer "))

    def _whoami(self) -> None:
        user = self._user()
        if user is None:
            return self._refuse(401)
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        access = {"accessToken": {"role": "read" if token in self.hub.uploads.read_only else "write"}}
        return self._send_json({"type": "user", "name": user[0], "orgs": [{"name": name} for name in user[1]], "auth": access})

    def _create(self, repo: str, *, private: bool) -> None:
        if repo in self.hub.commits:
            return self._send_json({"error": "You already created this model repo"}, 409, {"url": f"{self.hub.url}/{repo}"})
        self.hub.add(repo, {".gitattributes": b""})
        self.hub.uploads.private |= {repo} if private else set()
        return self._send_json({"url": f"{self.hub.url}/{repo}"})

    def _action(self, item: dict[str, Any]) -> dict[str, Any]:
        there = item["oid"] in self.hub.uploads.objects
        return item | ({} if there else {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}})

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        files = {name: file.content for name, file in self.hub.commits[repo][self.hub.branches[repo]["main"]].items()}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.uploads.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads.objects[value["oid"]]
            else:
                del files[value["path"]]
        commit = self.hub.add(repo, files)
        self._send_json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    def _refuse(self, status: int, said: str = "Unauthorized") -> None:
        self._send_json({"error": said}, status)

    def _send_json(self, content: object, status: int = 200, more: dict[str, str] | None = None) -> None:
        body = json.dumps((content if isinstance(content, dict) else {}) | (more or {})) if more else json.dumps(content)
        self._send(status, {"Content-Type": "application/json"}, body.encode())  # type: ignore[attr-defined]
