"""q3.json: what a folder holds, where it came from, and how faithful it was measured to be.

The one class that writes it is the one that reads it: the exporter fills a :class:`Manifest`, the runtime loads it.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from q3_runtime import strict_json
from q3_runtime.errors import IntegrityError, ModelError
from q3_runtime.quants import QUANTS

SCHEMA_VERSION = 1
MANIFEST_NAME = "q3.json"
BESIDE = ("README.md", "LICENSE")
"""Files of a folder that the manifest does not list."""
MAX_MANIFEST_BYTES = 1 << 20
OUTPUTS = {"embedding": "sentence_embedding", "reranker": "logits"}
"""Kind of a model → the output of its graph that we ask for."""
HEADLINES = {"embedding": ("mean", "min"), "reranker": ("spearman", "score_delta")}
"""Kind of a model → the figures of fidelity that everything which prints them needs."""
INT8_PRODUCTS = "float32, rounded to 8 bits by token"
"""What the recipe of such a quant says of its activations."""
NUMBERS = re.compile(r"\[\n[-+.,\deE\s]*\]")
"""A list of numbers in indented JSON, where it spans lines; no string does."""


@dataclass(frozen=True)
class FileEntry:
    """One file of the folder: size in bytes and sha256 in hex."""

    bytes: int
    sha256: str


@dataclass
class QuantEntry:
    """One quant in the folder. ``fidelity`` is None where nobody has measured it (``--no-verify``)."""

    files: dict[str, FileEntry]
    recipe: dict[str, Any]
    kept_wider: list[str]
    min_onnxruntime: str
    inputs: list[str]
    outputs: list[str]
    fidelity: dict[str, Any] | None

    @property
    def onnx_file(self) -> str:
        """Path of the graph within the folder."""
        return next(name for name in self.files if name.endswith(".onnx"))

    @property
    def has_tiled_attention(self) -> bool:
        """On a CPU: of texts beyond SHORT_TOKENS onnxruntime tiles attention in float32, and holds all scores in float16."""
        return self.recipe.get("activations") != "float16"

    @property
    def has_int8_products(self) -> bool:
        """Whether its linears multiply 8-bit numbers with one scale per token, which old CPUs may get wrong."""
        return self.recipe.get("activations") == INT8_PRODUCTS

    @property
    def total_bytes(self) -> int:
        """Size of the graph and its weights on disk."""
        return sum(entry.bytes for entry in self.files.values())


@dataclass
class Manifest:
    """The content of q3.json. ``dims`` is D, the full length of a vector; ``max_tokens`` counts the final token."""

    kind: str
    source: dict[str, str | None]
    license: str | None
    made_with: dict[str, str]
    dims: int
    mrl_dims: list[int]
    max_tokens: int
    prompts: dict[str, str]
    files: dict[str, FileEntry]
    quants: dict[str, QuantEntry]
    output_ranges: dict[str, list[float]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def floor(self, quant: str) -> dict[str, float]:
        """What the quant was judged by, or, where nobody has, what its row of the table says; nothing of a later version's."""
        measured = self.quants[quant].fidelity
        if measured:
            return dict(measured["floor"])
        return QUANTS[quant].floor(self.kind) if quant in QUANTS else {}

    @property
    def names(self) -> list[str]:
        """Every file that it lists, and itself."""
        return [*self.files, *(name for entry in self.quants.values() for name in entry.files), MANIFEST_NAME]

    def fingerprint(self, quant: str, *, with_ranges: bool = False) -> str:
        """sha256 of what makes a quant's vectors, the same for the same ones: names and hashes of files, ``output_ranges``."""
        files = self.quants[quant].files | {"tokenizer.json": self.files["tokenizer.json"]}
        lines = [f"{name} {files[name].sha256}\n" for name in sorted(files)]
        if with_ranges:
            lines.append(f"output_ranges {json.dumps(self.output_ranges, sort_keys=True)}\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of q3.json: the same manifest always gives the same bytes."""
        first = ("schema_version", "kind", "source", "license", "made_with")
        content = asdict(self)
        ordered = {key: content.pop(key) for key in first} | content
        text = json.dumps(ordered, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        return NUMBERS.sub(lambda found: f"[{' '.join(found.group()[1:-1].split())}]", text)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read and check ``folder/q3.json``.

        Raises:
            ModelError: no such folder, no manifest in it, or one that is newer than this runtime.
            IntegrityError: a manifest that is damaged.
        """
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise ModelError(f"{folder}: {_found_at(folder)}")
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise IntegrityError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_MANIFEST_BYTES}; export it again")
        try:
            content = strict_json.loads(path.read_text("utf-8"))
            version = content["schema_version"]
            if type(version) is not int or version < 1:
                raise TypeError(f"schema_version is {version!r}")
            if version > SCHEMA_VERSION:
                raise ModelError(
                    f"{path}: schema_version {version}, this q3-onnx reads up to {SCHEMA_VERSION}; type: pip install -U q3-onnx"
                )
            return cls._parse(content)
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
            raise IntegrityError(f"{path}: damaged ({type(error).__name__}: {error}); export or download it again") from error

    @classmethod
    def _parse(cls, content: dict[str, Any]) -> "Manifest":
        def files(entries: dict[str, Any]) -> dict[str, FileEntry]:
            for name, entry in entries.items():
                if not is_plain_path(name):
                    raise ValueError(f"file name {name!r} leaves the folder")
                if not _is_whole(entry["bytes"], least=0) or not re.fullmatch("[0-9a-f]{64}", entry["sha256"]):
                    raise ValueError(f"size or sha256 of {name!r}")
            return {name: FileEntry(entry["bytes"], entry["sha256"]) for name, entry in entries.items()}

        quants = {name: QuantEntry(**{**entry, "files": files(entry["files"])}) for name, entry in content["quants"].items()}
        for entry in quants.values():
            _ = entry.onnx_file
        if not quants:
            raise ValueError("no quants")
        if content["kind"] not in OUTPUTS:
            raise ValueError(f"kind {content['kind']!r}")
        manifest = cls(**{**content, "files": files(content["files"]), "quants": quants})
        manifest._check_types()
        return manifest

    def _check_types(self) -> None:
        """What the runtime counts with, formats or takes apart is what it takes it for."""
        right = {
            "source": _is_table(self.source, str | None) and {"id", "sha256"} <= self.source.keys(),
            "license": isinstance(self.license, str | None),
            "made_with": _is_table(self.made_with, str),
            "dims": _is_whole(self.dims, least=1),
            "mrl_dims": isinstance(self.mrl_dims, list) and all(_is_whole(dim, 1, self.dims) for dim in self.mrl_dims),
            "max_tokens": _is_whole(self.max_tokens, least=2),
            "prompts": _is_table(self.prompts, str),
            "output_ranges": self.output_ranges == {} or _are_ranges(self.output_ranges, self.dims),
        }
        for name, entry in self.quants.items():
            right[f"{name}.min_onnxruntime"] = re.fullmatch(r"\d{1,9}\.\d{1,9}(\..*)?", entry.min_onnxruntime) is not None
            right[f"{name}.recipe"] = isinstance(entry.recipe, dict)
            for key in ("kept_wider", "inputs", "outputs"):
                right[f"{name}.{key}"] = _are_names(getattr(entry, key))
            figures = entry.fidelity
            right[f"{name}.fidelity"] = figures is None or (
                _is_table(figures["floor"], float | int)
                and all(isinstance(figures[key], float | int) for key in (*HEADLINES[self.kind], *figures["floor"]))
                and isinstance(figures.get("self_check", 0.0), float | int)
                and bool(figures["floor"].keys() & set(HEADLINES[self.kind]))
                and (self.kind == "reranker" or "min" in figures["floor"])
            )
        if wrong := [key for key, is_right in right.items() if not is_right]:
            raise ValueError(f"wrong content of {', '.join(wrong)}")


def _found_at(path: Path) -> str:
    """What is there in the place of a folder of ours, and what to do."""
    expected = "expected a folder written by q3-export"
    if path.is_file():
        return f"a file, {expected}; give the folder"
    if not path.is_dir():
        return f"no such folder, expected one written by q3-export; check the path, or type: q3-export --model … --out {path}"
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return f"a checkpoint, {expected}; type: q3-export --model {path}"
    return f"a folder without {MANIFEST_NAME}, {expected}; give another one (q3 doctor says what this one is)"


def as_folder(name: str | PathLike[str]) -> Path:
    """The path with ``~`` resolved; a ``~`` that is nobody's home is left as it stands."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _is_whole(value: object, least: int, most: int = 1 << 62) -> bool:
    return type(value) is int and least <= value <= most


def _are_ranges(value: object, dims: int) -> bool:
    if not isinstance(value, dict) or value.keys() != {"min", "max"}:
        return False
    return all(
        isinstance(ends, list) and len(ends) == dims and all(type(end) in (int, float) and abs(end) < math.inf for end in ends)
        for ends in value.values()
    ) and all(low < high for low, high in zip(value["min"], value["max"], strict=True))


def _is_table(value: object, kind: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, kind) for item in value.values())


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_plain_path(name: str) -> bool:
    """True for a relative path that stays in its folder: ``onnx/model.onnx`` but neither ``../x`` nor ``/x``."""
    parts = name.split("/")
    return not re.search(r"[\\:\x00-\x1f]", name) and all(part not in ("", ".", "..") for part in parts)
