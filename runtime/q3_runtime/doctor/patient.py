"""A folder as its files describe it, read without trust: what is missing or damaged is noted, not raised."""

import json
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

import tokenizers

from q3_runtime import strict_json
from q3_runtime.errors import IntegrityError, ModelError, UsageError
from q3_runtime.git_lfs import PULL, is_pointer
from q3_runtime.manifest import MANIFEST_NAME, Manifest
from q3_runtime.quants import CPU_ORDER, QUANTS
from q3_runtime.tokenization import open_tokenizer

MAX_JSON_BYTES, MAX_TOKENIZER_BYTES = 1 << 20, 1 << 28
END = "<|endoftext|>"
"""What the Qwen3 embedding models end every text with; also what they pad with."""
LEGACY_POOLING = "pooling_mode_"


@dataclass
class Patient:
    """What is known of a folder before a graph is loaded."""

    folder: Path
    graph: Path
    """The graph that is examined."""
    kind: str
    """``embedding`` or ``reranker``."""
    manifest: Manifest | None
    quant: str | None
    """Of the graph that is examined, where its name or the manifest says."""
    files: dict[str, Any]
    """Content of the JSON files that are there and can be read."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Name of a file → why it cannot be read."""
    tokenizer: tokenizers.Tokenizer | None = None

    @property
    def graph_name(self) -> str:
        """The examined graph as a path in its folder."""
        return self.graph.relative_to(self.folder).as_posix()

    @property
    def is_qwen3(self) -> bool:
        """Whether the rules of the Qwen3 models are to be applied."""
        return bool(self.config.get("model_type") == "qwen3")

    @property
    def config(self) -> dict[str, Any]:
        """config.json, or nothing."""
        return self._table("config.json")

    @property
    def prompts(self) -> dict[str, Any]:
        """Prompts by name, as sentence-transformers takes them."""
        prompts = self._table("config_sentence_transformers.json").get("prompts")
        return prompts if isinstance(prompts, dict) else {}

    @property
    def padding_side(self) -> str:
        """What transformers pads on; right, unless the tokenizer says otherwise."""
        return str(self._table("tokenizer_config.json").get("padding_side", "right"))

    @property
    def has_listed_special_tokens(self) -> bool:
        """Whether transformers before 5 cannot read tokenizer_config.json: what is a list there was a table."""
        return isinstance(self._table("tokenizer_config.json").get("extra_special_tokens"), list)

    @property
    def pooling(self) -> str | None:
        """``lasttoken``, ``mean_tokens`` …, as sentence-transformers would pool; None where no file says."""
        pooling = self._table("1_Pooling/config.json")
        on = [
            key.removeprefix(LEGACY_POOLING)
            for key, value in pooling.items()
            if key.startswith(LEGACY_POOLING) and value is True
        ]
        return str(pooling["pooling_mode"]) if "pooling_mode" in pooling else "+".join(on) or None

    @property
    def module_paths(self) -> list[str]:
        """Folders that modules.json names, in order."""
        modules = self.files.get("modules.json")
        return [str(module.get("path")) for module in modules if isinstance(module, dict)] if isinstance(modules, list) else []

    @property
    def is_cross_encoder(self) -> bool:
        """Whether sentence-transformers' files say that it gives scores."""
        stated = self._table("config_sentence_transformers.json").get("model_type")
        return stated == "CrossEncoder" or "1_LogitScore" in self.module_paths

    @property
    def transformer_task(self) -> str | None:
        """What sentence-transformers loads the graph as."""
        task = self._table("sentence_bert_config.json").get("transformer_task")
        return None if task is None else str(task)

    def _table(self, name: str) -> dict[str, Any]:
        content = self.files.get(name)
        return content if isinstance(content, dict) else {}


READ = (
    "config.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json", "1_Pooling/config.json",
    "config_sentence_transformers.json", "sentence_bert_config.json",
)  # fmt: skip


def read_patient(folder: Path, quant: str | None = None) -> Patient:
    """Read the small files and the tokenizer, and choose the graph.

    Args:
        folder: any folder with an ONNX graph.
        quant: a name of :data:`q3_runtime.quants.QUANTS`; None: the first there is, in the order that a CPU prefers.

    Raises:
        ModelError: no folder, or no graph in it.
        UsageError: no graph of that quant.
    """
    if not folder.is_dir():
        what = "a file" if folder.is_file() else "no such folder"
        raise ModelError(f"{folder}: {what}, expected a folder with an ONNX graph; give its path")
    places = [place for place in (folder, folder / "onnx") if place.is_dir()]
    found = [path for place in places for path in place.iterdir() if path.suffix == ".onnx" and path.is_file()]
    graphs = sorted(path.relative_to(folder).as_posix() for path in found)
    if not graphs:
        raise ModelError(f"{folder}: no .onnx file in it or in its onnx/, expected one; export a checkpoint with q3-export")
    files: dict[str, Any] = {}
    damaged: dict[str, str] = {}
    for name in READ:
        if (folder / name).is_file():
            try:
                files[name] = _read_json(folder / name)
            except (ValueError, RecursionError, OSError) as error:
                damaged[name] = str(error)
    manifest = None
    if (folder / MANIFEST_NAME).is_file():
        try:
            manifest = Manifest.read(folder)
        except Exception as error:  # whatever it is, it is a finding
            damaged[MANIFEST_NAME] = str(error)
    chosen, graph = _choose(folder, graphs, manifest, quant)
    tokenizer = None
    path = folder / "tokenizer.json"
    if path.is_file() and path.stat().st_size <= MAX_TOKENIZER_BYTES:
        try:
            tokenizer = open_tokenizer(path)
            tokenizer.no_padding()
            tokenizer.no_truncation()
        except IntegrityError as error:
            damaged["tokenizer.json"] = str(error)
    parts = [path.relative_to(folder).as_posix() for path in (folder / graph).parent.glob(f"{escape(Path(graph).name)}*")]
    needed = [folder / name for name in (*READ, MANIFEST_NAME, "tokenizer.json", *sorted(parts))]
    damaged |= {path.relative_to(folder).as_posix(): PULL for path in needed if path.is_file() and is_pointer(path)}
    patient = Patient(folder, folder / graph, "embedding", manifest, chosen, files, damaged, tokenizer)
    if (manifest.kind == "reranker") if manifest else patient.is_cross_encoder:
        patient.kind = "reranker"
    return patient


def _choose(folder: Path, graphs: list[str], manifest: Manifest | None, quant: str | None) -> tuple[str | None, str]:
    """Name of the quant, where there is one, and its graph."""
    known = {name: entry.onnx_file for name, entry in manifest.quants.items()} if manifest else {}
    for name in CPU_ORDER if not known else ():
        file = QUANTS[name].onnx_file
        found = next((path for path in (file, file.removeprefix("onnx/")) if path in graphs), None)
        if found:
            known[name] = found
    if quant is None:
        return next(((name, known[name]) for name in CPU_ORDER if name in known), (None, graphs[0]))
    if quant not in known:
        raise UsageError(
            f"quant {quant!r} is not in {folder}, it has {', '.join(known) or ', '.join(graphs)}; pass one of these"
        )
    return quant, known[quant]


def _read_json(path: Path) -> Any:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path.stat().st_size} bytes, expected at most {MAX_JSON_BYTES}")
    try:
        return strict_json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from error
