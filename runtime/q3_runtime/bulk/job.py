"""What is to be done, in ``_q3_job.json``: model, words in front, form of the vectors, rows. Every part carries it, and its id.

Whoever asks for something else in the same folder is refused, and told what differs.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from q3_runtime import strict_json
from q3_runtime.errors import InputError

JOB_VERSION = 1
ID_TYPES = ("int64", "string")


@dataclass(frozen=True)
class Job:
    """All that the bytes of a part depend on, but for the versions of the libraries.

    ``model`` has source, quant, provider and the sha256 of the files that are used; ``prompt`` is put in front of every text;
    ``inputs_sha256`` is that of the lines "format bytes fingerprint rows", one an input file.
    """

    model: dict[str, str]
    prompt: str
    dim: int
    precision: str
    max_tokens: int
    threads: int
    text_column: str
    id_column: str | None
    chunk_rows: int
    id_type: str
    rows: int
    inputs_sha256: str
    schema_version: int = JOB_VERSION

    @property
    def id(self) -> str:
        """The same for the same work, wherever it is done."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """The text of ``_q3_job.json``."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, indent=1) + "\n"

    @classmethod
    def parse(cls, text: str, place: object) -> "Job":
        """The job that was written.

        Raises:
            ValueError: damaged.
            InputError: written by a newer q3-onnx.
        """
        try:
            content = strict_json.loads(text)
            version = content["schema_version"]
            if type(version) is int and version > JOB_VERSION:
                raise InputError(
                    f"{place}: schema_version {version}, this q3-onnx reads up to {JOB_VERSION}; type: pip install -U q3-onnx"
                )
            job = cls(**content)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        whole = (job.dim, job.max_tokens, job.threads, job.chunk_rows, job.rows, job.schema_version)
        if not all(type(number) is int and number >= 0 for number in whole) or job.id_type not in ID_TYPES:
            raise ValueError("wrong content")
        return job

    @classmethod
    def read(cls, path: Path) -> "Job":
        """See :meth:`parse`; an OSError where it cannot be read."""
        try:
            return cls.parse(path.read_text("utf-8"), path)
        except UnicodeDecodeError as error:
            raise ValueError(str(error)) from error

    def check(self, wanted: Mapping[str, Any], out: Path) -> None:
        """Refuse to go on with another job.

        Args:
            wanted: fields that were asked for now.
            out: where this job was begun.

        Raises:
            InputError: E_JOB_MISMATCH, with what differs.
        """
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        differences = [
            f"{name}{detail} was {_short(before)}, now {_short(now)}"
            for name, value in wanted.items()
            for detail, before, now in _compared(own[name], value)
            if before != now
        ]
        if differences:
            raise InputError(
                f"{out}: another job was begun there: {'; '.join(differences)}; run it as it was begun, or give another --out",
                fault="E_JOB_MISMATCH",
            )


def _compared(before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [(f" {key}", before.get(key), now.get(key)) for key in sorted(before.keys() | now.keys())]
    return [("", before, now)]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:56]}…"
