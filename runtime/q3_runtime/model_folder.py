"""What a user names → a folder: one that is there, or ``ORG/NAME`` from the hub."""

import re
import sys
from collections.abc import Callable, Collection
from os import PathLike
from pathlib import Path

from q3_runtime.errors import ModelError, UsageError
from q3_runtime.manifest import MANIFEST_NAME, Manifest, as_folder

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


def is_hub_id(name: str) -> bool:
    """True for ``ORG/NAME``. What starts with ``.``, ``/`` or ``~`` is only ever a path."""
    return HUB_ID.fullmatch(name) is not None


def find_folder(
    model: str | PathLike[str], quants: Callable[[Manifest], Collection[str]], *, revision: str | None = None
) -> Path:
    """What is there as it is; for ``ORG/NAME`` the manifest is downloaded, then what ``quants`` need.

    Args:
        model: a folder or ``ORG/NAME``.
        quants: manifest → names of the quants whose files are wanted; none: the manifest is enough.
        revision: branch, tag or commit on the hub.

    Raises:
        UsageError: a revision of a folder; or huggingface_hub is not installed.
        ModelError: not on the hub, or not made by q3-export.
        BusyError, IntegrityError: see q3_runtime.hub.
    """
    folder = as_folder(model)
    if folder.exists() or not is_hub_id(str(model)):
        if revision is not None:
            raise UsageError(f"revision {revision!r} of {folder}, expected ORG/NAME on the hub; leave out the revision")
        return folder
    return _from_hub(str(model), quants, revision)


def _from_hub(repo: str, quants: Callable[[Manifest], Collection[str]], revision: str | None) -> Path:
    from q3_runtime import hub

    progress = sys.stderr is not None and sys.stderr.isatty()
    first = hub.fetch(repo, revision=revision, patterns=[MANIFEST_NAME], progress=progress)
    if not (first.folder / MANIFEST_NAME).is_file():
        raise ModelError(
            f"{repo}: no {MANIFEST_NAME} in it, expected a model made by q3-export; type: q3-export --model {repo}",
            fault="E_HUB",
        )
    manifest = Manifest.read(first.folder)
    wanted = quants(manifest)
    if not wanted:
        return first.folder
    names = _names(manifest, wanted)
    return plain_folder(hub.fetch(repo, revision=first.revision, patterns=names, progress=progress).folder, manifest, wanted)


def plain_folder(folder: Path, manifest: Manifest, quants: Collection[str]) -> Path:
    """The folder, or, of a snapshot in the hub's cache that onnxruntime cannot read as it is, one that it can."""
    from q3_runtime.hub_cache import with_plain_files

    real = folder.resolve()
    if real.parent.name != "snapshots" or len(real.parents) < 3:
        return folder
    plain = with_plain_files(real, _names(manifest, quants))
    return folder if plain == real else plain


def _names(manifest: Manifest, quants: Collection[str]) -> list[str]:
    return [MANIFEST_NAME, *manifest.files, *(name for quant in quants for name in manifest.quants[quant].files)]
