"""What the hub's library raises, said in one line of ours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from q3_runtime.errors import BusyError, ModelError, Q3Error

FAULT = "E_HUB"
TRANSIENT = (408, 425, 429)
"""Statuses below 500 that say: later."""
NOT_A_HUB = (ValueError, KeyError, TypeError, AttributeError)
"""What the library raises when it reads the answer of another kind of server."""


@contextmanager
def explained(repo: str, revision: str | None, *, offline: bool = False) -> Iterator[None]:
    """Errors of huggingface_hub, and of the connection under it, as ours.

    Offline, a file that is not in the cache stays the library's LocalEntryNotFoundError.

    Raises:
        ModelError: a name, revision or permission is wrong: trying again does not help.
        BusyError: the hub cannot be reached, is overloaded or broke off.
        OSError: the cache cannot be written.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        if offline:
            raise
        raise _explain(error.__cause__ or error, repo, revision) from error
    except (errors.HTTPError, OSError, RuntimeError, *NOT_A_HUB) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
            raise  # a full disk, a cache without permission
        raise _explain(error, repo, revision) from error


def missing_offline(repo: str, revision: str | None, names: Sequence[str]) -> ModelError:
    """Offline, these files are not in the cache."""
    from huggingface_hub import constants

    return ModelError(
        f"{repo}{_at(revision)}: offline, and {len(names)} of the files it takes are not in the cache "
        f"{constants.HF_HUB_CACHE}: {', '.join(names)}; type the same once without HF_HUB_OFFLINE "
        "or --offline, or give a folder that is there",
        fault=FAULT,
    )


def _explain(error: BaseException, repo: str, revision: str | None) -> Q3Error:
    from huggingface_hub import constants, errors

    hub = "the hub" if constants.ENDPOINT == "https://huggingface.co" else constants.ENDPOINT
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HFValidationError):
        return _refused(f"{repo}: no name of a model on the hub, expected ORG/NAME; give one, or a folder that is there")
    if isinstance(error, errors.RevisionNotFoundError):
        return _refused(
            f"{repo}: no revision {revision!r} on {hub}, expected a branch, a tag or a commit; leave it out, or correct it"
        )
    if status in (401, 403) or isinstance(error, errors.GatedRepoError):
        return _refused(
            f"{repo}: no folder of this name here, and {hub} answered {status}: not there, private or gated, expected one of "
            "them; check the name, accept the model's terms on its page, and set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return _refused(
            f"{repo}: no folder of this name here and no model on {hub}, expected one of them; check the name "
            "(a private model needs HF_TOKEN)"
        )
    if isinstance(error, (errors.FileMetadataError, *NOT_A_HUB)):
        return _refused(f"{repo}: {hub} does not answer as a hub does ({_brief(error)}); check HF_ENDPOINT and the proxy")
    if status is not None and 400 <= status < 500 and status not in TRANSIENT:
        return _refused(f"{repo}{_at(revision)}: {hub} answered {status}, expected the file; check the name and the revision")
    kept = "try again (complete files are kept), or set HF_HUB_OFFLINE=1 to take what is in the cache"
    if status:
        return BusyError(f"{repo}: {hub} answered {status}; {kept}", fault=FAULT)
    return BusyError(
        f"{repo}: no folder of this name here, and {hub} cannot be reached or broke off ({_brief(error)}); check the path, or "
        f"{kept}",
        fault=FAULT,
    )


def _refused(message: str) -> ModelError:
    return ModelError(message, fault=FAULT)


def _at(revision: str | None) -> str:
    return f" at {revision}" if revision else ""


def _brief(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:150]
