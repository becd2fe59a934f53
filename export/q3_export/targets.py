"""The rules for a target that exists already."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from q3_runtime.errors import IntegrityError, ModelError
from q3_runtime.golden import TEXTS_NAME, VECTORS_NAME, Golden, Probe
from q3_runtime.integrity import check_files
from q3_runtime.manifest import FileEntry, Manifest, QuantEntry
from q3_runtime.quants import QUANTS


@dataclass(frozen=True)
class Plan:
    """What happens to the target: ``add`` renames new files into it, else a new folder takes its place."""

    add: bool = False
    kept: dict[str, QuantEntry] = field(default_factory=dict)
    """Quants of the target that stay, with the golden vectors they were judged by."""
    output_ranges: dict[str, list[float]] = field(default_factory=dict)
    """Those of the target, where quants of it stay: int8 vectors made before and after must be of one kind."""


def plan(
    existing: Manifest | None,
    target: Path,
    source: str,
    probes: list[Probe],
    quants: Mapping[str, str],
    *,
    force: bool,
    say: Callable[[str], None],
) -> Plan:
    """Same source and probes, new quants: add them. Anything else needs ``force``.

    Args:
        existing: the target's manifest, None where there is no target.
        target: the folder.
        source: sha256 of the checkpoint.
        probes: the texts to judge by now.
        quants: those about to be exported, with the files of their graphs.
        force: replace what is there.
        say: told what is not kept.

    Raises:
        ModelError: the target holds one of these quants, another source or other probes, and ``force`` is off.
        IntegrityError: the target is damaged and was to be kept, and ``force`` is off.
    """
    if existing is None:
        return Plan()
    try:
        other = _other(existing, target, source, probes)
        if other is None:
            golden = (TEXTS_NAME, VECTORS_NAME)
            check_files(target, {name: entry for name, entry in existing.files.items() if name in golden})
    except IntegrityError as error:
        if not force:
            raise
        say(f"{error}; --force: nothing of it is kept")
        return Plan()
    other = other or _alone(existing, quants)
    doubled = [name for name in quants if name in existing.quants]
    reason = other or (f"has {', '.join(doubled)} already" if doubled else None)
    lost = ", ".join(name for name in existing.quants if other and name not in quants)
    if reason is not None and not force:
        dropped = f", without its {lost}" if lost else ""
        raise ModelError(f"{target}: {reason}; give another --out, or --force to replace it{dropped}", fault="E_EXISTS")
    if lost:
        say(f"{target}: {other}; --force: {lost} is not kept")
    kept = {} if other else {name: entry for name, entry in existing.quants.items() if name not in doubled}
    if not force:
        check_files(target, existing.files | {name: file for entry in kept.values() for name, file in entry.files.items()})
        return Plan(True, kept, existing.output_ranges)
    whole = {name: entry for name, entry in kept.items() if _is_whole(target, name, entry.files, say)}
    add = reason is None and whole == kept and _is_whole(target, "what lies beside the graphs", existing.files, say)
    return Plan(add, whole, existing.output_ranges if whole else {})


def _is_whole(target: Path, name: str, files: dict[str, FileEntry], say: Callable[[str], None]) -> bool:
    try:
        check_files(target, files)
    except IntegrityError as error:
        say(f"{error}; --force: {name} is not kept")
        return False
    return True


def _other(existing: Manifest, target: Path, source: str, probes: list[Probe]) -> str | None:
    """In what the target differs so that nothing of it can stay."""
    if existing.source["sha256"] != source:
        return f"was made from another checkpoint ({existing.source['id']}, sha256 {str(existing.source['sha256'])[:12]}…)"
    if Golden.read(target, existing.kind).probes != probes:
        return "was judged by other probe texts"
    return None


def _alone(existing: Manifest, quants: Mapping[str, str]) -> str | None:
    """A graph without the suffix of its quant shares a folder with no other."""
    graphs = [(name, entry.onnx_file) for name, entry in existing.quants.items()]
    suffixed = all(name not in QUANTS or file == QUANTS[name].onnx_file for name, file in (*graphs, *quants.items()))
    if suffixed or existing.quants.keys() <= quants.keys():
        return None
    return f"has {', '.join(existing.quants)}, and with --layout tei a folder holds one quant"
