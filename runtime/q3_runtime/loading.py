"""An exported folder, or one on the hub → its manifest, and the chosen quant in a session ready to run."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from os import PathLike
from pathlib import Path
from threading import Event
from typing import NamedTuple, TypeVar

from q3_runtime.errors import ModelError
from q3_runtime.integrity import check_files, check_graph
from q3_runtime.manifest import OUTPUTS, Manifest
from q3_runtime.memory import ModelSizes, give_back_freed
from q3_runtime.model_folder import find_folder, plain_folder
from q3_runtime.pair_tokenization import PairTokenizer
from q3_runtime.runner import Runner
from q3_runtime.session import PROVIDERS, choose, open_session
from q3_runtime.tokenization import Tokenizer

Words = TypeVar("Words", Tokenizer, PairTokenizer)
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


def start(found: Found, threads: int | None, read_tokenizer: Callable[[], Words]) -> tuple[Words, Runner]:
    """Load the quant, and read its tokenizer meanwhile.

    Of 0.6B as int8 the one takes .7 s, the other .35. tokenizers keeps Python's lock all the time, onnxruntime only at first.

    Raises:
        UsageError, ProviderError: see q3_runtime.session.
        IntegrityError, UsageError: what reading the tokenizer raises.
    """
    entry = found.manifest.quants[found.quant]
    on_cpu = found.provider == PROVIDERS["cpu"]
    sizes = ModelSizes.read(found.folder, tiled=entry.has_tiled_attention) if on_cpu else None
    output = OUTPUTS[found.manifest.kind]
    begun = Event()
    load = partial(open_session, found.folder, entry, found.provider, threads, output=output, begun=begun.set)
    give_back_freed()  # of a model before, whose memory another thread would not use
    with ThreadPoolExecutor(1, "q3-load") as worker:
        try:
            session = worker.submit(load)
        except RuntimeError:  # Python ends and starts no threads any more, or there are too many
            session = Future()
            session.set_result(load())
        session.add_done_callback(lambda _: begun.set())
        begun.wait()
        tokenizer = read_tokenizer()
        pad_id = tokenizer.pad_id
        runner = Runner(session.result(), pad_id, sizes, output)
    give_back_freed()  # the two had no use for each other's memory: 60 MB
    return tokenizer, runner
