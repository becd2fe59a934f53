"""A private folder beside the target, and the renames that make it the target.

    .NAME.partial/lock      held while an export runs; freed by the system if it is killed
    .NAME.partial/folder/   the new content, complete before anything of it is renamed
    .NAME.old/              the previous target, for the moment between two renames

A killed export leaves the old target whole, or, between those two renames, as .NAME.old, which the next run puts back.
"""

import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from q3_runtime.durable import sync_folder, sync_tree, write_synced
from q3_runtime.errors import BusyError, IntegrityError, ModelError, StorageError
from q3_runtime.manifest import BESIDE, MANIFEST_NAME, Manifest


class Staging:
    """``with Staging(target, say) as staging:`` write into ``staging.folder``, then ``add`` or ``swap``.

    ``staging.existing`` is the target's manifest; None where there is none, or with ``force`` a damaged one.

    Raises:
        StorageError: the target's place cannot be written.
        BusyError: another export is writing there.
        ModelError: the target is something else than a folder of ours.
        IntegrityError: its manifest is damaged.
    """

    def __init__(self, target: Path, say: Callable[[str], None], *, force: bool = False) -> None:
        self.target, self._say, self._force = target, say, force
        self._partial = target.parent / f".{target.name}.partial"
        self._old = target.parent / f".{target.name}.old"
        self.folder = self._partial / "folder"
        self._handle: int | None = None

    def __enter__(self) -> "Staging":
        check_place(self.target)
        try:
            self._lock()
            if self._old.exists():
                if self.target.exists():
                    shutil.rmtree(self._old)
                else:
                    self._old.rename(self.target)
                    self._say(f"{self.target}: put back; an earlier export was killed while it replaced it")
            if self.folder.exists():
                shutil.rmtree(self.folder)
                self._say(f"{self._partial}: leftovers of a killed export discarded")
            self.folder.mkdir(mode=0o755)
            self.existing = self._existing()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._release()

    def add(self, manifest: Manifest) -> None:
        """Rename what is new into the existing target, q3.json last; at every moment it is the old folder or the new one."""
        assert self.existing is not None
        sync_tree(self.folder)
        old = self.existing
        changed = [name for name, entry in manifest.files.items() if old.files.get(name) != entry]
        for name, quant in manifest.quants.items():
            for file in quant.files if name not in old.quants else ():
                self._move(file)
        # The old quants, under a manifest that does not list what is about to change.
        between = Manifest(**{**vars(old), "files": {name: old.files[name] for name in old.files if name not in changed}})
        self._write_manifest(between)
        for name in [*changed, "README.md"]:
            self._move(name)
        self._write_manifest(manifest)
        self._discard_unlisted(manifest)

    def swap(self) -> None:
        """Put the new folder in the place of the target, if there is one."""
        sync_tree(self.folder)
        try:
            if self.target.exists():
                self._name_strangers()
                self.target.rename(self._old)
            self.folder.rename(self.target)
        except BaseException:
            if self._old.exists() and not self.target.exists():
                self._old.rename(self.target)
            raise
        sync_folder(self.target.parent)
        if self._old.exists():
            try:
                shutil.rmtree(self._old)
            except OSError as error:  # the new folder is in its place all the same
                self._say(f"{self._old}: what was there before cannot be removed ({error.strerror}); remove it by hand")

    def carry_over(self, names: list[str]) -> None:
        """Take files of the existing target into the new folder, without copying them where the disk can link."""
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(self.target / name, self.folder / name)
            except OSError:
                shutil.copy2(self.target / name, self.folder / name)

    def _move(self, name: str) -> None:
        (self.target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.folder / name, self.target / name)
        sync_folder((self.target / name).parent)

    def _write_manifest(self, manifest: Manifest) -> None:
        write_synced(self.folder / MANIFEST_NAME, manifest.to_json())
        self._move(MANIFEST_NAME)

    def _name_strangers(self) -> None:
        """What somebody else put into the target goes with it, and not in silence."""
        listed = self.existing.names if self.existing is not None else [MANIFEST_NAME]
        strangers = sorted(_files(self.target) - _files(self.folder) - {*BESIDE, *listed})
        if strangers:
            more = f" and {len(strangers) - 5} more" if len(strangers) > 5 else ""
            self._say(f"{self.target}: discarded with what was there: {', '.join(strangers[:5])}{more}")

    def _discard_unlisted(self, manifest: Manifest) -> None:
        listed = {name for entry in manifest.quants.values() for name in entry.files}
        for path in (self.target / "onnx").iterdir():
            if f"onnx/{path.name}" not in listed and (path.is_file() or path.is_symlink()):
                path.unlink()

    def _lock(self) -> None:
        try:
            self._partial.mkdir(mode=0o700, exist_ok=True)
            self._handle = lock = os.open(self._partial / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StorageError(f"{self.target}: cannot be written ({error.strerror}); give another --out") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(lock, 32).decode("ascii", "replace").strip()
            self._forget_lock()
            raise BusyError(
                f"{self.target}: another export (process {owner}) is writing there; wait for it, or give another --out"
            ) from error
        except OSError as error:
            if not os.read(lock, 1):  # else somebody holds it, and the disk fails for a moment
                (self._partial / "lock").unlink()
            self._forget_lock()
            raise StorageError(
                f"{self.target}: files cannot be locked there ({error.strerror}); give an --out on a local disk"
            ) from error
        if os.fstat(lock).st_nlink == 0:  # its owner has just finished and taken it away
            self._forget_lock()
            self._lock()
            return
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())

    def _existing(self) -> Manifest | None:
        if not self.target.is_dir() or not any(self.target.iterdir()):
            return None
        if not (self.target / MANIFEST_NAME).is_file():
            raise ModelError(
                f"{self.target}: a folder with other content, expected nothing or an earlier export; give another --out",
                fault="E_EXISTS",
            )
        try:
            return Manifest.read(self.target)
        except IntegrityError as error:
            if not self._force:
                raise
            self._say(f"{error}; --force: nothing of it is kept")
            return None

    def _release(self) -> None:
        """Take the private folder away, unless it is somebody else's; a signal may have come before the lock was ours."""
        if self._handle is None:
            with suppress(OSError):  # no such folder, or not empty and so not ours
                self._partial.rmdir()
            return
        with suppress(BlockingIOError):
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.folder, ignore_errors=True)  # first: as long as it is there its lock must be there too
            shutil.rmtree(self._partial, ignore_errors=True)
        self._forget_lock()

    def _forget_lock(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _files(folder: Path) -> set[str]:
    """Of all its folders."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def check_place(target: Path) -> None:
    """Can a folder be made there, or the one that is there be replaced?

    Raises:
        StorageError: no.
        ModelError: it is a symbolic link.
    """
    try:
        is_link = target.is_symlink()
    except OSError as error:
        raise StorageError(f"{target}: cannot be used ({error.strerror}); give another --out") from error
    if is_link:
        raise ModelError(f"{target}: a symbolic link, expected a folder or nothing; give another --out", fault="E_SYMLINK")
    if target.exists() and not target.is_dir():
        raise StorageError(f"{target}: a file, expected a folder or nothing; give another --out")
    if not target.parent.is_dir():
        raise StorageError(f"{target}: its parent folder does not exist; type: mkdir -p {target.parent}")
    if os.path.ismount(target):
        raise StorageError(f"{target}: a mount point, which no finished folder can be renamed to; give --out {target}/NAME")
    for folder in (target, target / "onnx"):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            raise StorageError(f"{folder}: may not be written; give another --out, or type: chmod u+wx {folder}")
