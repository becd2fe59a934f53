"""A Qwen3 checkpoint on disk: checked before any work, its weights mapped and read when they are asked for."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from q3_export import config_check, side_files
from q3_export.source import find_source
from q3_export.specs import MAX_TOKENS
from q3_export.tokenizer_check import check_tokenizer
from q3_export.weight_files import Place, find_weights
from q3_runtime.errors import ModelError
from q3_runtime.hash_memory import sha256
from q3_runtime.prompts import OFFICIAL_PROMPTS
from q3_runtime.templates import OFFICIAL

if TYPE_CHECKING:
    from transformers import Qwen3Config


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint. ``id`` is its id on the hub, or the folder's name; tensors are named without ``model.``."""

    folder: Path
    id: str
    revision: str | None
    """The commit on the hub; None for a folder."""
    kind: str
    raw_config: dict[str, Any]
    places: dict[str, Place]
    pad_id: int

    @property
    def config(self) -> "Qwen3Config":
        """The config as transformers reads it."""
        from transformers import Qwen3Config

        try:
            return Qwen3Config.from_dict(self.raw_config)
        except Exception as error:  # of whatever library checks the types of its fields
            raise ModelError(f"{self.folder}/config.json: transformers cannot read it ({error}); download it again") from error

    @property
    def dims(self) -> int:
        """D, the hidden size."""
        return int(self.raw_config["hidden_size"])

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return int(self.raw_config["num_hidden_layers"])

    @property
    def max_tokens(self) -> int:
        """Longest text or pair in tokens, all counted; where sentence-transformers cuts, if that is less."""
        own = side_files.max_seq_length(self.folder)
        return min(int(self.raw_config["max_position_embeddings"]), MAX_TOKENS, own or MAX_TOKENS)

    @property
    def prompts(self) -> dict[str, str]:
        """Prompt name → text, the checkpoint's own, where it has a list of them, else the official ones.

        ``query`` and ``document`` are always there, as sentence-transformers takes none for a name that is not. Of a reranker
        the parts of its template.
        """
        path = self.folder / "config_sentence_transformers.json"
        own = config_check.read_json(path).get("prompts") if path.is_file() else None
        if own is not None and not (isinstance(own, dict) and all(isinstance(text, str) for text in own.values())):
            raise ModelError(f"{path}: prompts are {own!r}, expected names and texts; download it again")
        if self.kind == "reranker":
            return OFFICIAL.as_prompts() | ({"instruction": own["query"]} if own and own.get("query") else {})
        return dict(OFFICIAL_PROMPTS) if own is None else {"query": "", "document": ""} | own

    def head(self) -> torch.Tensor:
        """Rows of yes and no in the head of a reranker, float32 [2, D]; without one of its own it is the token embeddings.

        transformers 5 ties the two only where ``lm_head.weight`` is not stored, whatever ``tie_word_embeddings`` says.
        """
        name = "lm_head.weight" if "lm_head.weight" in self.places else "embed_tokens.weight"
        return self.tensor(name)[list(side_files.answer_ids(self.folder))].to(torch.float32)

    @property
    def license(self) -> str | None:
        """Licence named by the checkpoint's own model card, or None."""
        return side_files.license_of(self.folder)

    @property
    def weights(self) -> int:
        """Number of weights that an embedding graph holds."""
        return sum(_size(place) for name, place in self.places.items() if name != "lm_head.weight")

    @property
    def table_weights(self) -> int:
        """Those of them that are token embeddings, V · D."""
        return int(self.raw_config["vocab_size"]) * self.dims

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor as it is stored, mapped from disk: its pages are read when they are touched."""
        place = self.places[name]
        with safe_open(place.file, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(place.name)
        return tensor

    def float32(self, name: str) -> torch.Tensor:
        """A tensor in float32, in memory."""
        return self.tensor(name).to(torch.float32)

    def sha256(self, *, progress: bool = False) -> str:
        """Identity of the source: sha256 over the sorted lines "name sha256" of weights, config and tokenizer."""
        weight_files = {place.file for place in self.places.values()}
        files = sorted({*weight_files, self.folder / "config.json", self.folder / "tokenizer.json"}, key=lambda path: path.name)
        lines = [f"{path.name} {sha256(path)}\n" for path in tqdm(files, "hash", unit="file", disable=not progress)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def check_finite(self, *, progress: bool = False) -> None:
        """Read every weight once: NaN and infinity are refused.

        Raises:
            ModelError: with their number and the first tensor that has them.
        """
        bad: dict[str, int] = {}
        for name in tqdm(self.places, "check weights", unit="tensor", disable=not progress):
            count = sum(int((~torch.isfinite(rows)).sum()) for rows in torch.split(self.tensor(name), 4096))
            if count:
                bad[name] = count
        if bad:
            name = next(iter(bad))
            raise ModelError(
                f"{sum(bad.values())} weights are NaN or infinite, first in tensor {name}; expected none; download it again",
                fault="E_NONFINITE",
            )


def open_checkpoint(
    model: str | Path,
    kind: str | None = None,
    *,
    revision: str | None = None,
    offline: bool = False,
    progress: bool = False,
) -> Checkpoint:
    """Find or download a checkpoint and check it; its weights' values are not read yet.

    Args:
        model: a key of :data:`q3_export.specs.SPECS`, a folder, or ``ORG/NAME`` on the hub.
        kind: ``embedding`` or ``reranker``; None takes what the checkpoint says.
        revision: branch, tag or commit on the hub; None takes the key's pinned commit, else the newest.
        offline: take what is in the hub's cache.
        progress: show bars on standard error.

    Raises:
        ModelError: not there, damaged, unsafe, not a Qwen3 model, or of another kind.
        UsageError, BusyError, IntegrityError: see q3_runtime.hub.
    """
    source = find_source(str(model), revision=revision, offline=offline, progress=progress)
    folder = source.folder
    config_check.check_safe(folder)
    config = config_check.check_config(folder / "config.json")
    places = find_weights(folder)
    config_check.check_shapes(config, {name: place.info.shape for name, place in places.items()})
    for file in sorted({place.file for place in places.values()}):
        try:
            with safe_open(file, framework="pt"):
                pass  # only its header is read
        except SafetensorError as error:
            raise ModelError(
                f"{file.name}: safetensors cannot read it ({error}); download it again", fault="E_ST_HEADER"
            ) from error
    stated = side_files.kind_of_modules(folder)
    if kind is not None and stated is not None and kind != stated:
        raise ModelError(
            f"{folder}: modules.json says {stated}, --kind says {kind}; leave out --kind or use the other checkpoint",
            fault="E_ARCH",
        )
    found, pad_id = check_tokenizer(folder / "tokenizer.json", config["vocab_size"], kind, stated)
    if found == "embedding":
        side_files.check_pooling(folder)
        side_files.check_similarity(folder)
    side_files.max_seq_length(folder)
    if found == "reranker":
        side_files.answer_ids(folder)
    if found == "reranker" and not config.get("tie_word_embeddings") and "lm_head.weight" not in places:
        raise ModelError(
            f"{folder}: tie_word_embeddings is false and there is no lm_head.weight; download it again", fault="E_INDEX"
        )
    return Checkpoint(folder, source.id, source.revision, found, config, places, pad_id)


def _size(place: Place) -> int:
    return (place.info.end - place.info.start) // (4 if place.info.dtype == "F32" else 2)
