"""The texts on which an export is judged: shipped with the package, or a file of one's own."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from q3_export import reference
from q3_export.calibration import ActivationRanges
from q3_export.checkpoint import Checkpoint
from q3_export.quantize.sensitivity import Plan, Sensitivity, work
from q3_runtime.errors import InputError
from q3_runtime.golden import TENSORS, TEXTS_NAME, VECTORS_NAME, Golden, Probe
from q3_runtime.pair_tokenization import PairTokenizer
from q3_runtime.templates import Template
from q3_runtime.tokenization import Tokenizer

KINDS = ("query", "document")
PROBES, CALIBRATION, PAIRS = "probes.jsonl", "calibration.jsonl", "pairs.jsonl"
"""The shipped files: 128 texts that judge, others of the same mix from which ranges are taken, and 200 pairs for rerankers."""


@dataclass(frozen=True)
class Reference:
    """What one run of PyTorch gives: golden values, those of the calibration texts [M, D] float32, and what they showed."""

    golden: Golden
    calibration: npt.NDArray[np.float32]
    ranges: ActivationRanges
    plans: dict[tuple[str, str], Plan]
    """For each pair of formats that was asked for."""


def read_probes(path: Path | None, checkpoint: Checkpoint, *, judging: bool = True) -> list[Probe]:
    """Texts with the token ids that the model gets for them, prompt or template included.

    Args:
        path: for an embedding model JSONL of ``{"text", "kind"}``, or one text a line; for a reranker JSONL of
            ``{"query", "document"}``; None: shipped ones.
        checkpoint: whose tokenizer, prompts and length limit count.
        judging: take the shipped texts that judge; else those from which ranges are taken.

    Raises:
        InputError: the file cannot be used.
    """
    is_reranker = checkpoint.kind == "reranker"
    if path is not None:
        try:
            source = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: probes cannot be read ({error}), expected JSONL or one text a line in UTF-8") from error
    else:
        name = CALIBRATION if not judging else (PAIRS if is_reranker else PROBES)
        source = files("q3_export").joinpath("data", name).read_text("utf-8")
    lines = [(line, number) for number, line in enumerate(source.split("\n"), start=1) if line.strip()]
    if len(lines) < 2:
        raise InputError(f"{path}: {len(lines)} probes, expected at least 2; give more texts")
    tokenizer_file = checkpoint.folder / "tokenizer.json"
    if is_reranker:
        shipped_texts = path is None and not judging
        pairs = _calibration_pairs(lines) if shipped_texts else [_pair(line, number) for line, number in lines]
        template = Template.from_prompts(checkpoint.prompts)
        entries = [
            {"text": template.fill(pair["query"], pair["document"]), "kind": "pair", "group": pair["group"]} for pair in pairs
        ]
        encoded = PairTokenizer(tokenizer_file, checkpoint.max_tokens, template).encode([entry["text"] for entry in entries])
    else:
        entries = [_entry(line, number) for line, number in lines]
        texts = [checkpoint.prompts.get(entry["kind"], "") + entry["text"] for entry in entries]
        encoded = Tokenizer(tokenizer_file, checkpoint.max_tokens).encode(texts)
    return [Probe(ids=item.ids.tolist(), **entry) for entry, item in zip(entries, encoded, strict=True)]


def run_reference(
    checkpoint: Checkpoint,
    probes: list[Probe],
    known: Golden | None = None,
    *,
    forms: Iterable[tuple[str, str]] = (),
    calibration: list[Probe] | None = None,
    device: str = "cpu",
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Reference:
    """PyTorch over probes and calibration texts in one pass through the layers; over these only where golden is known.

    ``forms`` are pairs of :data:`q3_export.quantize.formats.FORMATS`, narrow and wide, to judge every linear in. Without
    ``calibration`` it takes the shipped texts. ``say`` is told how long it will take.
    """
    calibration = calibration or read_probes(None, checkpoint, judging=False)
    judging = [] if known else probes
    ranges = ActivationRanges(first_row=len(judging))
    ids = [probe.ids for probe in (*judging, *calibration)]
    sensitivity = Sensitivity(forms, rows=range(len(judging), len(ids)))
    tokens = sum(map(len, ids))
    seconds = reference.expected_seconds(checkpoint, tokens + len(sensitivity.plans) * work(len(calibration)), device)
    say(
        f"PyTorch in float32 over {len(judging)} probes and {len(calibration)} calibration texts, {tokens:,} tokens: "
        f"about {seconds / 60:.0f} min; shorter --probes and --calibration take less"
    )
    vectors = reference.RUN[checkpoint.kind](checkpoint, ids, observers=(ranges, sensitivity), device=device, progress=progress)
    return Reference(known or Golden(probes, vectors[: len(probes)]), vectors[len(judging) :], ranges, sensitivity.plans)


def make_golden(checkpoint: Checkpoint, probes: list[Probe], *, device: str = "cpu", progress: bool = False) -> Golden:
    """What PyTorch gives for the probes: fp32 vectors, or log-odds."""
    ids = [probe.ids for probe in probes]
    return Golden(probes, reference.RUN[checkpoint.kind](checkpoint, ids, device=device, progress=progress))


def write_golden(golden: Golden, folder: Path, kind: str) -> None:
    """Write golden.json and golden.safetensors; same vectors, same bytes."""
    lines = ",\n".join(json.dumps(vars(probe), ensure_ascii=False) for probe in golden.probes)
    (folder / TEXTS_NAME).write_text(f"[\n{lines}\n]\n", "utf-8")
    (folder / VECTORS_NAME).write_bytes(save({TENSORS[kind]: np.ascontiguousarray(golden.vectors)}))


def _entry(line: str, number: int) -> dict[str, str]:
    if not line.lstrip().startswith("{"):
        return {"text": line, "kind": "document", "group": "own"}
    content = _object(line, number, '{"text": "…", "kind": "query"} or plain text')
    text, kind = content.get("text"), content.get("kind", "document")
    if not isinstance(text, str) or kind not in KINDS:
        raise InputError(
            f"probes, line {number}: kind {kind!r}, text of {type(text).__name__}; expected kind query or document and a str"
        )
    return {"text": text, "kind": kind, "group": str(content.get("group", "own"))}


def _pair(line: str, number: int) -> dict[str, str]:
    content = _object(line, number, '{"query": "…", "document": "…"}')
    pair = {name: content.get(name) for name in ("query", "document")}
    if wrong := [f"{name} is {type(text).__name__}" for name, text in pair.items() if not isinstance(text, str)]:
        raise InputError(f'probes, line {number}: {", ".join(wrong)}, expected str; give {{"query": "…", "document": "…"}}')
    return {name: str(text) for name, text in pair.items()} | {"group": str(content.get("group", "own"))}


def _object(line: str, number: int, expected: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"probes, line {number}: {error!r}, expected {expected}") from error
    if not isinstance(content, dict):
        raise InputError(f"probes, line {number}: a {type(content).__name__}, expected {expected}")
    return content


def _calibration_pairs(lines: list[tuple[str, int]]) -> list[dict[str, str]]:
    """Every other shipped document that is no query, with the shipped queries in turn: one template costs as much as a text."""
    entries = [_entry(line, number) for line, number in lines]
    queries = [entry["text"] for entry in entries if entry["kind"] == "query"]
    documents = [entry for entry in entries if entry["kind"] == "document"][::2]
    return [
        {"query": queries[i % len(queries)], "document": entry["text"], "group": entry["group"]}
        for i, entry in enumerate(documents)
    ]
