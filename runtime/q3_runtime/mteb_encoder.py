"""An exported folder as an encoder of MTEB, with the instructions of the official evaluation."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from q3_runtime import task_instructions
from q3_runtime.embedder import Embedder
from q3_runtime.errors import UsageError
from q3_runtime.vectors import Vectors, checked_dim


class MtebEncoder:
    """What ``mteb.evaluate`` takes as a model: MTEB's EncoderProtocol, over an :class:`Embedder`.

    Which texts get an instruction, and which, follows the official evaluation: see q3_runtime.task_instructions.
    The official one cuts texts at 8,192 tokens, this one where the model ends.

    Args:
        folder: the exported folder, or ``ORG/NAME`` on the hub.
        revision: branch, tag or commit on the hub.
        quant: which of its quants; None takes the best present.
        dim: Matryoshka truncation of all vectors; None: D.
        instructions: instructions by the name of the task, from :func:`q3_runtime.task_instructions.read` say;
            None, or a task that has none there: MTEB's own.
        options: further ones of :class:`Embedder`.

    Raises:
        UsageError: mteb is not installed; others as for :class:`Embedder`.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        revision: str | None = None,
        *,
        quant: str | None = None,
        dim: int | None = None,
        instructions: task_instructions.Instructions | None = None,
        **options: Any,
    ) -> None:
        self._prompt_of, self._meta = _mteb()
        self.model = Embedder(folder, revision=revision, quant=quant, **options)
        self.dim = checked_dim(dim, self.model.dims)
        self.instructions = instructions or {}

    def close(self) -> None:
        """Give the model's memory back."""
        self.model.close()

    def __enter__(self) -> "MtebEncoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def encode(
        self, inputs: Iterable[Mapping[str, Any]], *, task_metadata: Any, prompt_type: Any = None, **options: Any
    ) -> Vectors:
        """Vectors of all texts, float32 [N, dim], unit length.

        Args:
            inputs: MTEB's DataLoader; every batch has its texts under ``text``. The runtime makes its own batches.
            task_metadata: MTEB's TaskMetadata.
            prompt_type: MTEB's PromptType: query, document or None.
            options: ``show_progress_bar``; what else MTEB passes, split and batch size say, makes no difference.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        instruction = self.instruction(task_metadata, prompt_type)
        progress = bool(options.get("show_progress_bar"))
        return self.model.encode(texts, instruction=instruction or None, dim=self.dim, progress=progress)

    def instruction(self, task_metadata: Any, prompt_type: Any = None) -> str:
        """The instruction in front of these texts; empty: they are embedded as they are."""
        side = None if prompt_type is None else str(prompt_type.value)
        own = task_metadata.prompt
        if isinstance(own, Mapping):
            own = own.get(side, "")
        if own is None:
            own = self._prompt_of(task_metadata.name)
        return task_instructions.instruction(task_metadata.name, task_metadata.type, side, self.instructions, own)

    def similarity(self, embeddings1: npt.ArrayLike, embeddings2: npt.ArrayLike) -> Vectors:
        """Cosines of all with all, float32 [N1, N2]."""
        return self.model.similarity(np.atleast_2d(embeddings1), np.atleast_2d(embeddings2))

    def similarity_pairwise(self, embeddings1: npt.ArrayLike, embeddings2: npt.ArrayLike) -> Vectors:
        """Cosines of row with row, float32 [N]; the rows are what :meth:`encode` gave, of unit length."""
        return (np.atleast_2d(embeddings1) * np.atleast_2d(embeddings2)).sum(-1, dtype=np.float32)  # type: ignore[no-any-return]

    @cached_property
    def mteb_model_meta(self) -> Any:
        """MTEB's ModelMeta: what results are filed under.

        The name holds the quant; the revision is a hash of its files, the tokenizer and the instructions.
        """
        manifest, quant = self.model.manifest, self.model.quant
        entry, source = manifest.quants[quant], manifest.source["id"] or "unknown"
        files = entry.files | {"tokenizer.json": manifest.files["tokenizer.json"]}
        hashes = "\n".join(f"{name} {file.sha256}" for name, file in sorted(files.items()))
        hashes += json.dumps(dict(self.instructions), sort_keys=True)
        overwrites = {
            "name": f"q3-onnx/{source.rpartition('/')[2]}-{quant}",
            "revision": hashlib.sha256(hashes.encode()).hexdigest(),
            "memory_usage_mb": entry.total_bytes / 2**20,
            "max_tokens": manifest.max_tokens,
            "embed_dim": self.dim,
            "framework": ["ONNX"],
            "similarity_fn_name": "cosine",
            "use_instructions": True,
            "adapted_from": source if "/" in source else None,
            "experiment_kwargs": {"dim": self.dim} if self.dim != self.model.dims else None,
        }
        return self._meta.create_empty(overwrites)


def _mteb() -> tuple[Any, Any]:
    """What is needed of mteb: its instruction of a task by name, and ModelMeta. Imported late, because it brings PyTorch."""
    try:
        from mteb.abstasks.abstask import get_abstask_prompt
        from mteb.models.model_meta import ModelMeta
    except ImportError as error:
        raise UsageError(
            "MtebEncoder needs mteb 2.26 or newer, which is not installed; type: pip install 'mteb>=2.26'"
        ) from error
    return get_abstask_prompt, ModelMeta
