"""A finished folder → a repository on the hub, in one commit."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, errors

from q3_runtime.errors import BusyError, IntegrityError, ModelError, UsageError
from q3_runtime.hub_errors import FAULT, explained
from q3_runtime.manifest import MANIFEST_NAME, Manifest
from q3_runtime.model_folder import is_hub_id

BESIDE = ("README.md", "LICENSE")
"""Files of a folder that the manifest does not list."""
EMPTY = {".gitattributes", *BESIDE}
"""What may be in a repository that holds no model yet."""


def check(repo: str, *, offline: bool = False) -> None:
    """Asked before any work: is there a token that may write there, and is there no other model?

    Raises:
        UsageError: not ORG/NAME, or offline.
        ModelError: no token, one for other names, or a repository that was not made by q3-export.
        BusyError: the hub cannot be reached.
    """
    if not is_hub_id(repo):
        raise UsageError(f"push {repo!r}: expected ORG/NAME on the hub; give your name, or an organization's, and a name")
    if offline or huggingface_hub.constants.HF_HUB_OFFLINE:
        raise UsageError(f"push {repo!r} and offline given together; leave one out, and unset HF_HUB_OFFLINE")
    api = huggingface_hub.HfApi()
    with _explained(repo):
        user = api.whoami()
        names = [user["name"], *(org["name"] for org in user.get("orgs", []))]
        if repo.split("/")[0] not in names:
            raise ModelError(f"push {repo!r}: the token is for {', '.join(names)}; give one of these as ORG", fault=FAULT)
        found = set(api.list_repo_files(repo)) if api.repo_exists(repo) else set()
    if found - EMPTY and MANIFEST_NAME not in found:
        raise ModelError(
            f"{repo}: holds {len(found)} files and no {MANIFEST_NAME}, expected none; give another name", fault=FAULT
        )


def push(folder: Path, repo: str, *, progress: bool = False) -> str:
    """Upload the folder; returns the address of its page.

    A repository that is not there is made, and is private. What an earlier push left there and the folder does not have is
    deleted. Then the hub's hashes are compared with the manifest's.

    Args:
        folder: made by q3-export.
        repo: ``ORG/NAME``.
        progress: show the hub's own bars.

    Raises:
        ModelError, BusyError: the hub refuses, or cannot be reached; the folder is whole all the same.
        IntegrityError: the hub lists another hash than the manifest.
    """
    manifest = Manifest.read(folder)
    listed = manifest.files | {name: file for entry in manifest.quants.values() for name, file in entry.files.items()}
    names = [*listed, MANIFEST_NAME, *(name for name in BESIDE if (folder / name).is_file())]
    api = huggingface_hub.HfApi()
    bars = huggingface_hub.utils.are_progress_bars_disabled()
    if not progress:
        huggingface_hub.utils.disable_progress_bars()
    try:
        with _explained(repo, f"{folder} is complete; type: hf upload {repo} {folder}"):
            url = api.create_repo(repo, private=True, exist_ok=True)
            there = set(api.list_repo_files(repo)) - {".gitattributes"}
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names
            ]
            operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(there - set(names))]
            done = api.create_commit(repo, operations, commit_message=f"q3-export: {', '.join(manifest.quants)}")
            stored = api.model_info(repo, revision=done.oid, files_metadata=True).siblings
    finally:
        if not bars:
            huggingface_hub.utils.enable_progress_bars()
    large = {file.rfilename: file.lfs.sha256 for file in stored if file.lfs}
    wrong = [name for name, entry in listed.items() if large.get(name, entry.sha256) != entry.sha256]
    if wrong or not {file.rfilename for file in stored} >= set(names):
        raise IntegrityError(
            f"{repo}: the hub does not hold what was sent ({', '.join(wrong) or 'files are missing'}); push again"
        )
    return str(url)


@contextmanager
def _explained(repo: str, way_out: str = "") -> Iterator[None]:
    """The hub's errors as ours; where it refuses to be written to, what is needed, and then the way out."""
    try:
        with explained(repo, None):
            try:
                yield
            except errors.LocalTokenNotFoundError as error:
                raise ModelError(f"push {repo}: no token, expected one with write access; set HF_TOKEN", fault=FAULT) from error
            except errors.HfHubHTTPError as error:
                if error.response.status_code not in (401, 403):
                    raise
                found = f"the hub answered {error.response.status_code}, expected leave to write"
                raise ModelError(f"push {repo}: {found}; set HF_TOKEN to a token with write access", fault=FAULT) from error
    except (ModelError, BusyError) as error:
        raise type(error)(f"{error}; {way_out}", fault=error.fault) if way_out else error from error
