"""How the hub keeps a file."""

import hashlib
from dataclasses import dataclass

LARGE = (".safetensors", ".onnx", ".onnx_data", ".bin", "tokenizer.json")
"""Files that the hub keeps as LFS objects: sha256 instead of git's sha1, and delivered from another address."""


def is_large(name: str) -> bool:
    return name.endswith(LARGE)


@dataclass(frozen=True)
class File:
    """One file of a commit."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        stored = f"version lfs\noid {self.sha256}\n".encode() if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.blob_id
