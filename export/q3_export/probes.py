"""The texts on which an export is judged: shipped with the package, or a file of one's own."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from q3_export import reference
from q3_export.calibration import ActivationRanges
from q3_export.checkpoint import Checkpoint
from q3_export.quantize.sensitivity import Plan, Sensitivity
from q3_runtime.errors import InputError
from q3_runtime.golden import TEXTS_NAME, VECTORS_NAME, Golden, Probe
from q3_runtime.tokenization import Tokenizer

KINDS = ("query", "document")
PROBES, CALIBRATION = "probes.jsonl", "calibration.jsonl"
"""The shipped files: 128 texts that judge, and others of the same mix from which ranges are taken."""


@dataclass(frozen=True)
class Reference:
    """What one run of PyTorch gives: golden vectors, float32 vectors [M, D] of the calibration texts, and what they showed."""

    golden: Golden
    calibration: npt.NDArray[np.float32]
    ranges: ActivationRanges
    plans: dict[tuple[str, str], Plan]
    """For each pair of formats that was asked for."""


def read_probes(path: Path | None, checkpoint: Checkpoint, *, shipped: str = PROBES) -> list[Probe]:
    """Texts with the token ids that the model gets for them, prompt included.

    Args:
        path: JSONL of ``{"text", "kind"}``, or one text a line; None: the shipped file.
        checkpoint: whose tokenizer, prompts and length limit count.
        shipped: which of the shipped files.

    Raises:
        InputError: the file cannot be used.
    """
    if path is None:
        source = files("q3_export").joinpath("data", shipped).read_text("utf-8")
    else:
        try:
            source = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: probes cannot be read ({error}), expected JSONL or one text a line in UTF-8") from error
    entries = [_entry(line, number) for number, line in enumerate(source.split("\n"), start=1) if line.strip()]
    if len(entries) < 2:
        raise InputError(f"{path}: {len(entries)} probes, expected at least 2; give more texts")
    tokenizer = Tokenizer(checkpoint.folder / "tokenizer.json", checkpoint.max_tokens)
    texts = [checkpoint.prompts.get(entry["kind"], "") + entry["text"] for entry in entries]
    encoded = tokenizer.encode(texts)
    return [Probe(ids=item.ids.tolist(), **entry) for entry, item in zip(entries, encoded, strict=True)]


def run_reference(
    checkpoint: Checkpoint,
    probes: list[Probe],
    known: Golden | None = None,
    *,
    forms: Iterable[tuple[str, str]] = (),
    calibration_file: Path | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Reference:
    """PyTorch over probes and calibration texts in one pass through the layers; over these only where golden is known.

    ``forms`` are pairs of :data:`q3_export.quantize.formats.FORMATS`, narrow and wide, to judge every linear in.
    """
    calibration = read_probes(calibration_file, checkpoint, shipped=CALIBRATION)
    judging = [] if known else probes
    ranges = ActivationRanges(first_row=len(judging))
    sensitivity = Sensitivity(forms, first_row=len(judging))
    ids = [probe.ids for probe in (*judging, *calibration)]
    vectors = reference.embed(checkpoint, ids, observers=(ranges, sensitivity), device=device, progress=progress)
    return Reference(known or Golden(probes, vectors[: len(probes)]), vectors[len(judging) :], ranges, sensitivity.plans)


def make_golden(checkpoint: Checkpoint, probes: list[Probe], *, device: str = "cpu", progress: bool = False) -> Golden:
    """PyTorch fp32 vectors of the probes."""
    return Golden(probes, reference.embed(checkpoint, [probe.ids for probe in probes], device=device, progress=progress))


def write_golden(golden: Golden, folder: Path) -> None:
    """Write golden.json and golden.safetensors; same vectors, same bytes."""
    lines = ",\n".join(json.dumps(vars(probe), ensure_ascii=False) for probe in golden.probes)
    (folder / TEXTS_NAME).write_text(f"[\n{lines}\n]\n", "utf-8")
    (folder / VECTORS_NAME).write_bytes(save({"embedding": np.ascontiguousarray(golden.vectors)}))


def _entry(line: str, number: int) -> dict[str, str]:
    if not line.lstrip().startswith("{"):
        return {"text": line, "kind": "document", "group": "own"}
    try:
        content = json.loads(line)
        text, kind = content["text"], content.get("kind", "document")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'probes, line {number}: {error!r}, expected {{"text": "…", "kind": "query"}} or plain text'
        ) from error
    if not isinstance(text, str) or kind not in KINDS:
        raise InputError(
            f"probes, line {number}: kind {kind!r}, text of {type(text).__name__}; expected kind query or document and a str"
        )
    return {"text": text, "kind": kind, "group": str(content.get("group", "own"))}
