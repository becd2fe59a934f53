"""Texts → vectors, from an exported folder, with onnxruntime and nothing heavier."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from q3_runtime import loading, precisions
from q3_runtime import prompts as prompt_words
from q3_runtime.errors import ModelError
from q3_runtime.golden import Probe
from q3_runtime.self_check import check_vector
from q3_runtime.tokenization import Encoded, Tokenizer, is_list, refuse_table
from q3_runtime.vectors import Vectors, checked_dim, cosines
from q3_runtime.windows import checked_budget, run_windows

TOKEN_OUTPUT = "last_hidden_state"
"""Of the graph, [B, T, D]."""


class Embedder:
    """An exported embedding model, ready to encode, in the process that loaded it. Threads may share it.

    Args:
        folder: the exported folder, or ``ORG/NAME`` on the hub: then the files that are used are downloaded.
        quant: which of its quants; None takes the best present for the provider.
        provider: ``auto``, ``cpu``, ``cuda``, or any onnxruntime provider by its name.
        threads: threads of one run; None takes the physical cores that this process may use.
        self_check: embed one of the golden texts now and compare it with PyTorch's vector.
        check_hashes: compare the sha256 of every file that is used with the manifest; remembered between runs.
        split_special_tokens: read ``<|im_end|>`` and the like in texts as ordinary characters.
        revision: branch, tag or commit on the hub.

    Raises:
        ModelError, IntegrityError, ProviderError, UsageError: see q3_runtime.errors; BusyError where the hub is away.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        quant: str | None = None,
        provider: str = "auto",
        threads: int | None = None,
        self_check: bool = True,
        check_hashes: bool = True,
        split_special_tokens: bool = False,
        revision: str | None = None,
    ) -> None:
        found = loading.find(folder, "embedding", quant=quant, provider=provider, check_hashes=check_hashes, revision=revision)
        self.folder, self.manifest, self.quant, self.provider = found
        path, most = self.folder / "tokenizer.json", self.manifest.max_tokens
        self.tokenizer, self._runner = loading.start(
            found, threads, lambda: Tokenizer(path, most, split_special_tokens=split_special_tokens)
        )
        if self_check and not split_special_tokens:  # the golden ids were made with special tokens parsed
            check_vector(self)

    def close(self) -> None:
        """Give the model's memory back. Using it afterwards is a UsageError; closing twice is fine."""
        self._runner.close()

    def __enter__(self) -> "Embedder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def dims(self) -> int:
        """D, the length of a full vector."""
        return self.manifest.dims

    @property
    def ranges(self) -> precisions.Ranges:
        """[2, D] float32: min and max of each dimension, which int8 and uint8 vectors are made with.

        Raises:
            ModelError: the folder has none.
        """
        if not self.manifest.output_ranges:
            raise ModelError(f"{self.folder}: no output_ranges in it, which int8 and uint8 need; export again, or pass ranges=")
        return np.array([self.manifest.output_ranges[key] for key in ("min", "max")], dtype=np.float32)

    @property
    def prompts(self) -> dict[str, str]:
        """Prompt name → the text put in front."""
        return self.manifest.prompts

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        instruction: str | None = None,
        dim: int | None = None,
        precision: str = "float32",
        ranges: npt.ArrayLike | None = None,
        batch_tokens: int | None = None,
        truncate: bool = True,
        errors: str = "strict",
        progress: bool = False,
    ) -> npt.NDArray[Any]:
        """Vectors of texts, float32 [N, dim], unit length; of a single str, [dim].

        A text's vector does not depend on the texts beside it, nor on their order.

        Args:
            texts: one, or a list, an array, a column of a table; the empty string is embedded like any other.
            prompt_name: a name in :attr:`prompts`. At most one of prompt_name, prompt, instruction.
            prompt: text put in front of every text, as it is.
            instruction: task in English; the official form is put around it.
            dim: Matryoshka truncation: the first ``dim`` values, normalized again. 32 to D; None: D.
            precision: ``float32``, ``float16``, ``int8``, ``uint8``, or ``binary``, ``ubinary``: a bit a value, [N, dim / 8].
                int8 and uint8 are made of the first ``dim`` values as they are, not normalized again.
            ranges: [2, dim], min and max of each dimension for int8 and uint8; None: the model's own.
            batch_tokens: budget of one run, rows × longest row; None: 2,048, on CUDA 8,192.
            truncate: cut texts longer than the model takes (said once, as a warning); False: raise.
            errors: ``strict`` refuses a lone surrogate, ``replace`` puts U+FFFD there.
            progress: a progress bar on standard error.

        Raises:
            TextTypeError, TextError, TooLongError, InputError, UsageError, NonFiniteError, TooLargeError: see
                q3_runtime.errors; ModelError where int8 or uint8 lack ranges, ProviderError in a fork.
        """
        self._runner.session()
        dim = checked_dim(dim, self.dims)
        out = precisions.chosen(precision, dim)
        limits = precisions.chosen_ranges(precision, dim, ranges, lambda: self.ranges)
        budget = checked_budget(self.provider, batch_tokens, errors)
        prefix = prompt_words.resolve(self.prompts, prompt_name, prompt, instruction)
        refuse_table(texts)
        every: Sequence[str] = texts if is_list(texts) else [texts]  # type: ignore[list-item]  # what is no list is refused as a text
        vectors = out.empty(len(every), dim)

        def encode(window: list[str], start: int) -> list[Encoded]:
            return self.tokenizer.encode(window, prefix=prefix, truncate=truncate, errors=errors, first_index=start)

        windows = run_windows(
            self._runner, every, encode, what="vector", budget=budget, max_tokens=self.manifest.max_tokens,
            progress=progress,
        )  # fmt: skip
        for rows, full in windows:
            vectors[rows] = out.convert(full, dim, limits)
        return vectors[0] if isinstance(texts, str) else vectors

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> npt.NDArray[Any]:
        """:meth:`encode` with the model's own query prompt, unless a prompt or an instruction is given."""
        if not {"prompt_name", "prompt", "instruction"} & {key for key, value in options.items() if value is not None}:
            options["prompt_name"] = "query"
        return self.encode(texts, **options)

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> npt.NDArray[Any]:
        """:meth:`encode` with the model's document prompt, which is empty for Qwen3-Embedding."""
        if not {"prompt_name", "prompt", "instruction"} & {key for key, value in options.items() if value is not None}:
            options["prompt_name"] = "document" if "document" in self.prompts else None
        return self.encode(texts, **options)

    def similarity(self, a: npt.ArrayLike, b: npt.ArrayLike) -> Vectors:
        """Cosines of every vector of ``a`` [Na, D] with every vector of ``b`` [Nb, D], float32 [Na, Nb].

        Raises:
            InputError: integers, which must be dequantized first, or vectors of different lengths.
        """
        return cosines(a, b)

    def dequantize(self, vectors: npt.ArrayLike, ranges: npt.ArrayLike | None = None) -> Vectors:
        """int8 or uint8 vectors [N, dim] → float32, not normalized; ``ranges`` as for :meth:`encode`.

        Raises:
            InputError, ModelError: see q3_runtime.precisions.dequantize and :attr:`ranges`.
        """
        codes = np.asarray(vectors)
        if ranges is None and codes.dtype.kind != "f":
            ranges = self.ranges[:, : codes.shape[-1] if codes.ndim else 0]
        return precisions.dequantize(codes, ranges)

    def encode_probes(self, probes: Sequence[Probe]) -> list[Encoded]:
        """Token ids of golden texts, each with the prompt of its kind."""
        return self.tokenizer.encode([self.prompts.get(probe.kind, "") + probe.text for probe in probes])

    def run(self, ids: Sequence[npt.NDArray[np.int64]], *, padding_side: str = "right") -> Vectors:
        """Vectors of B token sequences, float32 [B, D], not checked for NaN; one batch where that fits in memory.

        Raises:
            TooLargeError, ProviderError, UsageError: see q3_runtime.runner.
        """
        return self._runner.run(ids, range(len(ids)), padding_side)

    def run_tokens(self, ids: npt.NDArray[np.int64]) -> Vectors:
        """Hidden states of one token sequence [T], float32 [T, D], not normalized: a vector for each of its tokens.

        Raises:
            ModelError: the folder was exported with --pooled-only.
            TooLargeError, ProviderError, UsageError: see q3_runtime.runner.
        """
        if TOKEN_OUTPUT not in self.manifest.quants[self.quant].outputs:
            raise ModelError(f"{self.folder}: no {TOKEN_OUTPUT} in {self.quant}; export again without --pooled-only")
        found: Vectors = self._runner.run([ids], [0], output=TOKEN_OUTPUT)[0]
        return found[: len(ids)]  # a long text may have been padded
