"""Models by name: the files that are needed, from the hub into its cache, each compared with the hash the hub lists."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from q3_runtime.errors import BusyError, IntegrityError, UsageError
from q3_runtime.hash_memory import HashMemory
from q3_runtime.hub_cache import Blob, blob_name, check_blob, files_of
from q3_runtime.hub_errors import explained, missing_offline


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository, in the hub's cache; ``revision`` is the commit's sha.

    ``names`` are all files of the repository, whether asked for or not; offline, as far as the cache knows them.
    """

    folder: Path
    revision: str
    names: tuple[str, ...]


def fetch(
    repo: str, *, revision: str | None = None, patterns: Sequence[str], offline: bool = False, progress: bool = False
) -> Snapshot:
    """Download the files that match and are not in the cache yet; check all that match.

    HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honoured. Online, the size and hash of a file are compared
    with what the hub lists; offline, its hash with the name that it has among the cache's blobs (a cache without
    symlinks keeps none). A file that does not match is removed, so that the next call downloads it again.

    Args:
        repo: ``ORG/NAME``.
        revision: branch, tag or commit; None takes the default branch.
        patterns: names or globs of the files.
        offline: take what is in the cache and open no connection.
        progress: show bars on standard error, where that is a terminal.

    Raises:
        UsageError: huggingface_hub is not installed, or too old.
        ModelError: no such repository or revision, no permission; offline, files are missing.
        BusyError: the hub cannot be reached or broke off, or the repository changed meanwhile; try again.
        IntegrityError: a file is not the one that the hub lists.
    """
    library = _huggingface_hub()
    if offline or library.constants.HF_HUB_OFFLINE:
        return _from_cache(library, repo, revision, patterns)
    with explained(repo, revision), _quiet(library):
        commit, blobs = _listing(library, repo, revision)
        bar = None if progress else _NoBar
        found = library.snapshot_download(repo, revision=revision, allow_patterns=list(patterns), tqdm_class=bar)
    folder = Path(found)
    if folder.name != commit:
        raise _changed(repo)
    names = _matching(library, blobs, patterns)
    if missing := [name for name in names if not (folder / name).is_file()]:  # the library fell back on the cache
        raise BusyError(f"{repo}: the hub did not deliver {', '.join(missing)}; try again", fault="E_HUB")
    memory = HashMemory()
    for name in names:
        stored = blob_name(folder / name)
        expected = blobs[name] if blobs[name].hash else Blob(stored, blobs[name].size)  # some mirrors list no hashes
        try:
            check_blob(repo, folder, name, expected, memory)
        except IntegrityError as error:
            with explained(repo, revision), _quiet(library):
                now = _listing(library, repo, revision)
            if now != (commit, blobs) or stored not in (None, expected.hash):
                raise _changed(repo) from error
            raise
    memory.save()
    return Snapshot(folder, commit, tuple(blobs))


def _from_cache(library: ModuleType, repo: str, revision: str | None, patterns: Sequence[str]) -> Snapshot:
    options = {"revision": revision, "allow_patterns": list(patterns), "local_files_only": True}
    try:
        with explained(repo, revision, offline=True):
            folder = Path(library.snapshot_download(repo, **options))
    except library.errors.LocalEntryNotFoundError as error:
        incomplete = getattr(error, "snapshot_path", None)
        if incomplete is None:
            raise missing_offline(repo, revision, patterns) from error
        folder = Path(incomplete)
    there = files_of(folder)
    names = sorted({*there, *_listed(library, repo, folder.name)})
    if missing := [name for name in _matching(library, names, patterns) if name not in there]:
        raise missing_offline(repo, revision, missing)
    memory = HashMemory()
    for name in _matching(library, there, patterns):
        check_blob(repo, folder, name, Blob(blob_name(folder / name)), memory)
    memory.save()
    return Snapshot(folder, folder.name, tuple(names))


def _listing(library: ModuleType, repo: str, revision: str | None) -> tuple[str, dict[str, Blob]]:
    """The commit, and size and hash of each of its files, as the hub has them now."""
    timeout = library.constants.HF_HUB_ETAG_TIMEOUT
    info = library.HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=timeout)
    return info.sha, {
        file.rfilename: Blob(file.lfs.sha256, file.lfs.size) if file.lfs else Blob(file.blob_id, file.size)
        for file in info.siblings
    }


def _listed(library: ModuleType, repo: str, commit: str) -> list[str]:
    """Names of all files of the commit, if an earlier download kept the list in the cache."""
    try:
        return [file.path for file in library.get_cached_repo_tree(repo, revision=commit)]
    except library.errors.CachedRepoTreeNotFoundError:
        return []


def _matching(library: ModuleType, names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return list(library.utils.filter_repo_objects(names, allow_patterns=list(patterns)))


def _changed(repo: str) -> BusyError:
    return BusyError(f"{repo}: it changed on the hub while it was downloaded; try again", fault="E_HUB")


def _huggingface_hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
        from huggingface_hub import get_cached_repo_tree  # noqa: F401  # the youngest of what is used
    except ImportError as error:
        raise UsageError(
            "models by name need huggingface_hub 1.31 or newer, which is not installed; "
            "type: pip install 'q3-onnx[hub]', or give a folder"
        ) from error
    module: ModuleType = huggingface_hub
    return module


@contextmanager
def _quiet(library: ModuleType) -> Iterator[None]:
    """The library's warnings, of its retries say, do not stand beside our one line."""
    logging = library.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


class _NoBar(tqdm):  # type: ignore[misc]
    """A progress bar that shows nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})
