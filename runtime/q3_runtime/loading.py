"""An exported folder, or one on the hub → its manifest, and the chosen quant in a session ready to run."""

from os import PathLike
from pathlib import Path
from typing import NamedTuple

from q3_runtime.errors import ModelError
from q3_runtime.integrity import check_files, check_graph
from q3_runtime.manifest import OUTPUTS, Manifest
from q3_runtime.memory import ModelSizes
from q3_runtime.model_folder import find_folder, plain_folder
from q3_runtime.runner import Runner
from q3_runtime.session import PROVIDERS, choose, open_session

KINDS = {
    "embedding": ("an embedding model", "Embedder, q3 embed and q3 search"),
    "reranker": ("a reranker", "Reranker and q3 rerank"),
}
"""Kind of a model → what to call it, and what takes it."""


class Found(NamedTuple):
    """A folder on this machine that holds a model of the kind that was asked for, and which of it is to be used."""

    folder: Path
    manifest: Manifest
    quant: str
    provider: str
    """Of onnxruntime, by its own name."""


def find(
    name: str | PathLike[str],
    kind: str,
    *,
    quant: str | None = None,
    provider: str = "auto",
    check_hashes: bool = True,
    revision: str | None = None,
) -> Found:
    """Find or download the folder and check its files.

    Raises:
        ModelError: no such model, or one of another kind.
        IntegrityError, ProviderError, UsageError: see q3_runtime.errors; BusyError where the hub is away.
    """

    def chosen(manifest: Manifest) -> tuple[str, str]:
        if manifest.kind != kind:
            (found, takers), (expected, _) = KINDS[manifest.kind], KINDS[kind]
            raise ModelError(f"{name}: {found}, expected {expected}; {takers} take this one")
        return choose(manifest.quants, quant, provider)

    folder = find_folder(name, lambda manifest: chosen(manifest)[:1], revision=revision)
    manifest = Manifest.read(folder)
    taken, where = chosen(manifest)
    folder, entry = plain_folder(folder, manifest, [taken]), manifest.quants[taken]
    check_files(folder, entry.files | (manifest.files if check_hashes else {}), hashes=check_hashes)
    check_graph(folder, entry)
    return Found(folder, manifest, taken, where)


def start(found: Found, pad_id: int, threads: int | None) -> Runner:
    """Load the quant.

    Raises:
        UsageError, ProviderError: see q3_runtime.session.
    """
    entry = found.manifest.quants[found.quant]
    on_cpu = found.provider == PROVIDERS["cpu"]
    sizes = ModelSizes.read(found.folder, tiled=entry.has_tiled_attention) if on_cpu else None
    output = OUTPUTS[found.manifest.kind]
    session = open_session(found.folder, entry, found.provider, threads, output=output)
    return Runner(session, pad_id, sizes, output)
