"""Where a checkpoint comes from: a key, a folder, or a repository on the hub."""

from dataclasses import dataclass
from pathlib import Path

from q3_export import config_check, side_files, weight_files
from q3_export.specs import SPECS
from q3_runtime import hub
from q3_runtime.errors import ModelError, UsageError
from q3_runtime.manifest import as_folder
from q3_runtime.model_folder import is_hub_id

CONFIGS = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "modules.json",
    "1_Pooling/config.json", "1_LogitScore/config.json", "config_sentence_transformers.json", "sentence_bert_config.json",
    "README.md", "LICENSE", weight_files.INDEX,
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder. ``id`` is its id on the hub, or the folder's name; ``revision`` the commit, if on the hub."""

    folder: Path
    id: str
    revision: str | None = None


def find_source(model: str, *, revision: str | None = None, offline: bool = False, progress: bool = False) -> Source:
    """A key, else an existing folder, else ``ORG/NAME``, which is downloaded; what starts with . / or ~ is only a path.

    Args:
        model: what the user named.
        revision: branch, tag or commit on the hub; None takes the key's pinned commit, else the newest.
        offline: take what is in the hub's cache.
        progress: show bars on standard error.

    Raises:
        ModelError: not there, or a repository with code, pickled weights or modules that are not exported.
        UsageError: a revision of a folder; huggingface_hub is not installed.
        BusyError, IntegrityError: see q3_runtime.hub.
    """
    spec = SPECS.get(model)
    if spec is not None and spec.repo is not None:
        return _downloaded(spec.repo, revision or spec.revision, offline, progress)
    folder = Path(__file__).parents[2] / "models" / model if spec else as_folder(model)
    if not folder.exists() and spec is None and is_hub_id(model):
        return _downloaded(model, revision, offline, progress)
    if spec is not None and not (folder / weight_files.SINGLE).is_file():
        raise ModelError(
            f"{model} is part of a source checkout and is not at {folder}; type there: q3-export --model models/{model}"
        )
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "no such folder"
        raise ModelError(
            f"{model}: {found}, expected the folder of a Qwen3 checkpoint, ORG/NAME on the hub, or one of {', '.join(SPECS)}"
        )
    if revision is not None:
        raise UsageError(f"revision {revision!r} of the folder {folder}, expected ORG/NAME on the hub; leave out --revision")
    return Source(folder, folder.resolve().name)


def _downloaded(repo: str, revision: str | None, offline: bool, progress: bool) -> Source:
    """First what is small: a repository with code, pickled weights or another architecture costs no gigabytes."""
    first = hub.fetch(repo, revision=revision, patterns=CONFIGS, offline=offline, progress=progress)
    config_check.check_safe(first.folder, first.names)
    weight_files.check_not_pickled(repo, first.names)
    config_check.check_config(first.folder / "config.json")
    side_files.kind_of_modules(first.folder)
    # Not those of checkpoint-500/, and of two forms the one that is read.
    weights = [name for name in first.names if name.endswith(".safetensors") and "/" not in name]
    weights = [weight_files.SINGLE] if weight_files.SINGLE in weights or not weights else weights
    every = hub.fetch(repo, revision=first.revision, patterns=[*CONFIGS, *weights], offline=offline, progress=progress)
    return Source(every.folder, repo, every.revision)
