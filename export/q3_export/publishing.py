"""A finished folder → a repository on the hub, in one commit."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, errors

from q3_runtime import hub
from q3_runtime.errors import BusyError, IntegrityError, ModelError, UsageError
from q3_runtime.hash_memory import sha256
from q3_runtime.hub_errors import FAULT, explained
from q3_runtime.manifest import BESIDE, MANIFEST_NAME, Manifest
from q3_runtime.model_folder import is_hub_id

EMPTY = {".gitattributes", *BESIDE}
"""What may be in a repository that holds no model yet; the last two are replaced."""
MAX_SMALL_BYTES = 20_000_000
"""A larger file is an LFS object, whose sha256 the hub lists; of a smaller one it may list git's own hash."""


def check(repo: str, *, offline: bool = False) -> None:
    """Asked before any work: is there a token that may write there, and is the repository free or one of ours?

    Raises:
        UsageError: not ORG/NAME, or offline.
        ModelError: no token, one for reading or for other names, or a repository that was not made by q3-export.
        BusyError: the hub cannot be reached.
    """
    if not is_hub_id(repo):
        raise UsageError(f"push {repo!r}: expected ORG/NAME on the hub; give your name, or an organization's, and a name")
    if offline or huggingface_hub.constants.HF_HUB_OFFLINE:
        raise UsageError(f"push {repo!r} and offline given together; leave one out, and unset HF_HUB_OFFLINE")
    api = huggingface_hub.HfApi()
    with _explained(repo):
        user = api.whoami()
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise ModelError(f"push {repo}: the token may only read, expected one with write access; set HF_TOKEN", fault=FAULT)
        names = [user["name"], *(org["name"] for org in user.get("orgs", []))]
        if repo.split("/")[0] not in names:
            raise ModelError(f"push {repo!r}: the token is for {', '.join(names)}; give one of these as ORG", fault=FAULT)
        found = set(api.list_repo_files(repo)) if api.repo_exists(repo) else set()
    if found - EMPTY and MANIFEST_NAME not in found:
        raise ModelError(
            f"{repo}: holds {len(found)} files and no {MANIFEST_NAME}, expected none; give another name", fault=FAULT
        )


def check_source(repo: str, source: str, *, force: bool = False) -> Manifest | None:
    """What an earlier push left there; ``source`` is the sha256 of the checkpoint that is to be pushed.

    Raises:
        ModelError: it was made from another checkpoint, and ``force`` is off.
        BusyError: the hub cannot be reached.
    """
    api = huggingface_hub.HfApi()
    with _explained(repo):
        if not api.repo_exists(repo) or not api.file_exists(repo, MANIFEST_NAME):
            return None
    there = Manifest.read(hub.fetch(repo, patterns=[MANIFEST_NAME]).folder)
    if there.source["sha256"] != source and not force:
        raise ModelError(
            f"{repo}: was made from another checkpoint ({there.source['id']}); give another name, or --force to replace it",
            fault=FAULT,
        )
    return there


def push(folder: Path, repo: str, *, force: bool = False, progress: bool = False) -> str:
    """Upload the folder; returns the address of its page.

    A repository that is not there is made, and is private. What an earlier push left there, by its q3.json, and the folder
    does not have is deleted; other files stay. Then the hub's hashes are compared with those of the files.

    Args:
        folder: made by q3-export.
        repo: ``ORG/NAME``.
        force: replace what was made from another checkpoint.
        progress: show the hub's own bars.

    Raises:
        ModelError, BusyError: the hub refuses, or cannot be reached; the folder is whole all the same.
        IntegrityError: the hub lists another hash than the file's.
    """
    manifest = Manifest.read(folder)
    names = [*manifest.names, *(name for name in BESIDE if (folder / name).is_file())]
    api = huggingface_hub.HfApi()
    with _bars(progress), _explained(repo, f"{folder} is complete; type: hf upload {repo} {folder}"):
        before = check_source(repo, str(manifest.source["sha256"]), force=force)
        url = api.create_repo(repo, private=True, exist_ok=True)
        now = api.model_info(repo)
        left = {file.rfilename for file in now.siblings or ()} & set(before.names if before else ()) - set(names)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(left)]
        message = f"q3-export: {', '.join(manifest.quants)}"
        done = api.create_commit(repo, operations, commit_message=message, parent_commit=now.sha)
        stored = api.model_info(repo, revision=done.oid, files_metadata=True).siblings or ()
    hashes = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in stored}
    if wrong := [name for name in names if hashes.get(name) not in (sha256(folder / name), _git_hash(folder / name))]:
        raise IntegrityError(f"{repo}: the hub does not hold what was sent ({', '.join(wrong)}); push again")
    return str(url)


def _git_hash(path: Path) -> str:
    """The hash that git gives a file; empty for one that is too large to be in git."""
    size = path.stat().st_size
    return hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest() if size <= MAX_SMALL_BYTES else ""


@contextmanager
def _bars(progress: bool) -> Iterator[None]:
    """The hub's own progress bars, or none."""
    disabled = huggingface_hub.utils.are_progress_bars_disabled()
    if not progress:
        huggingface_hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            huggingface_hub.utils.enable_progress_bars()


@contextmanager
def _explained(repo: str, way_out: str = "") -> Iterator[None]:
    """The hub's errors as ours; where it refuses to be written to, what is needed, and then the way out."""
    try:
        with explained(repo, None):
            try:
                yield
            except errors.LocalTokenNotFoundError as error:
                raise ModelError(f"push {repo}: no token, expected one with write access; set HF_TOKEN", fault=FAULT) from error
            except ValueError as error:
                if "Invalid metadata in README.md" not in str(error):
                    raise
                found = " ".join(str(error).split())
                raise ModelError(f"push {repo}: the hub refuses the folder's card: {found}; correct it", fault=FAULT) from error
            except errors.HfHubHTTPError as error:
                status, said = error.response.status_code, " ".join(str(error.server_message or "").split())[:200]
                if status in (409, 412):
                    found = f"somebody else pushed meanwhile (the hub answered {status}: {said})"
                    raise BusyError(f"push {repo}: {found}; look at that before you replace it", fault=FAULT) from error
                if status not in (401, 403):
                    raise
                found = f"the hub answered {status}{f' ({said})' if said else ''}, expected leave to write"
                raise ModelError(f"push {repo}: {found}; set HF_TOKEN to a token with write access", fault=FAULT) from error
    except (ModelError, BusyError) as error:
        if not way_out:
            raise
        raise type(error)(f"{error}; {way_out}", fault=error.fault) from error
