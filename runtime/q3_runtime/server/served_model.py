"""A folder as it is served: its names, its tokenizer, and the queue in front of it."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic
from typing import Any, TypeVar

import numpy as np

from q3_runtime.embedder import Embedder
from q3_runtime.errors import NonFiniteError, Q3Error
from q3_runtime.prompts import instruct
from q3_runtime.reranker import Reranker
from q3_runtime.scores import probabilities
from q3_runtime.server.metrics import Metrics
from q3_runtime.server.refusals import RefusedError, refusal_of
from q3_runtime.server.scheduling import Limits, Scheduler, Timing
from q3_runtime.server.waiting import Ids
from q3_runtime.tokenization import Encoded, Tokenizer
from q3_runtime.vectors import Vectors, check_finite

INLINE_CHARACTERS = 4096
"""Texts of up to so many characters are tokenized at once, in less time than it takes to hand them to a thread."""
TOKENIZER_THREADS = 2
MOST_VALUES = 8_000_000
"""Numbers in one answer with a vector for every token: some 90 MB of JSON."""

Found = TypeVar("Found")


@dataclass
class Work:
    """What was done for one request, for its headers and its usage."""

    model: "ServedModel"
    prompt: str = ""
    """What was put in front of each text; of a reranker, the instruction."""
    characters: int = 0
    tokens: int = 0
    truncated: list[int] = field(default_factory=list)
    tokenization: float = 0.0
    """Seconds."""
    timing: Timing = field(default_factory=Timing)


class ServedModel:
    """An Embedder or a Reranker behind a name.

    Args:
        name: as clients call it.
        model: loaded, its self-check done.
        limits: of its queue.
        metrics: of the server.
        auto_truncate: whether a text that is too long is cut where a request does not say.
    """

    def __init__(
        self, name: str, model: Embedder | Reranker, limits: Limits, metrics: Metrics, *, auto_truncate: bool = True
    ) -> None:
        self.name, self.model, self.auto_truncate = name, model, auto_truncate
        self.kind = model.manifest.kind
        source = str(model.manifest.source["id"])
        self.aliases = {name, model.folder.name, source, source.rpartition("/")[2]}
        self._metrics = metrics
        self._tokenizing = ThreadPoolExecutor(TOKENIZER_THREADS, "q3-serve-tokenizer")
        self._scheduler = Scheduler(self._run, limits, metrics, name)

    def close(self) -> None:
        """Run nothing more."""
        self._scheduler.close()
        self._tokenizing.shutdown(wait=False, cancel_futures=True)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Of texts, also for a reranker, whose own takes pairs."""
        if isinstance(self.model, Embedder):
            return self.model.tokenizer
        return Tokenizer(self.model.folder / "tokenizer.json", self.model.manifest.max_tokens)

    @cached_property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        return 1 + max(self.tokenizer.raw.get_vocab(with_added_tokens=True).values())

    @property
    def waiting_tokens(self) -> int:
        """Admitted and not answered."""
        return self._scheduler.tokens

    @property
    def is_running(self) -> bool:
        """Whether a thread computes, perhaps for a client that has left."""
        return self._scheduler.running > 0

    @property
    def embedder(self) -> Embedder:
        """The model, where it is one.

        Raises:
            RefusedError: a reranker.
        """
        if not isinstance(self.model, Embedder):
            raise RefusedError("wrong_model", f"{self.name} is a reranker, this route needs an embedding model", param="model")
        return self.model

    @property
    def reranker(self) -> Reranker:
        """The model, where it is one.

        Raises:
            RefusedError: an embedding model.
        """
        if not isinstance(self.model, Reranker):
            raise RefusedError("wrong_model", f"{self.name} is not a re-ranker model, this route needs one", param="model")
        return self.model

    async def vectors(
        self, inputs: Sequence[str | list[int]], prefix: str, truncate: bool | None, side: str = "right"
    ) -> tuple[Vectors, Work]:
        """Unit vectors, float32 [N, D].

        Raises:
            RefusedError, Q3Error: as below.
        """
        ids, work = await self._encoded(inputs, prefix, truncate, side)
        rows = await self._answer(ids, work)
        return np.stack(rows), work

    async def raw_vectors(
        self, inputs: Sequence[str | list[int]], prefix: str, truncate: bool | None, side: str = "right"
    ) -> tuple[Vectors, Work]:
        """Hidden states of the last tokens, float32 [N, D], not normalized; each text is run alone."""
        ids, work = await self._encoded(inputs, prefix, truncate, side)
        return np.stack(await self._answer(ids, work, lambda row: self._token_states(row)[-1].copy())), work

    async def token_vectors(
        self, inputs: Sequence[str | list[int]], prefix: str, truncate: bool | None, side: str = "right"
    ) -> tuple[list[Vectors], Work]:
        """Hidden states of every token of each text, N times float32 [T, D], not normalized; each text is run alone.

        Raises:
            RefusedError: more values than one answer may have.
        """
        ids, work = await self._encoded(inputs, prefix, truncate, side)
        values = work.tokens * self.embedder.dims
        if values > MOST_VALUES:
            most = MOST_VALUES // self.embedder.dims
            raise RefusedError(
                "too_many_tokens", f"{work.tokens} tokens, of each of which a vector is wanted, expected at most {most}"
            )
        return await self._answer(ids, work, self._token_states), work

    async def scores(
        self, query: str, documents: Sequence[str], instruction: str | None, truncate: bool | None, *, raw: bool
    ) -> tuple[list[float], Work]:
        """Of each document: the probability that it answers the query, or the log-odds."""
        reranker, cut = self.reranker, self._cuts(truncate)
        bodies = [reranker.template.fill(query, document, instruction) for document in documents]
        words = reranker.template.instruction if instruction is None else instruction
        work = Work(self, words, characters=sum(map(len, documents)) + len(query))
        ids = await self._tokenized(work, bodies, lambda: reranker.tokenizer.encode(bodies, truncate=cut))
        log_odds = np.array([row[0] for row in await self._answer(ids, work)], dtype=np.float32)
        return (log_odds if raw else probabilities(log_odds)).tolist(), work

    def prefix(self, prompt_name: str | None, instruction: str | None, input_type: str | None) -> str:
        """The prompt that a request asks for, by at most one of the three; none of them: none.

        Raises:
            RefusedError: several, or a name that the model does not have.
        """
        given = {"prompt_name": prompt_name, "instruction": instruction, "input_type": input_type}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise RefusedError("invalid_value", f"{' and '.join(named)} given together, expected one of them", param=named[1])
        if instruction is not None:
            return instruct(instruction)
        name = prompt_name if input_type is None else input_type.removeprefix("search_")
        prompts = self.embedder.prompts
        if name is not None and name not in prompts:
            there = ", ".join(sorted(prompts))
            raise RefusedError("invalid_value", f"no prompt is called {name!r}, this model has {there}", param=named[0])
        return "" if name is None else prompts[name]

    async def in_thread(self, characters: int, work: Callable[[], Found]) -> Found:
        """What ``work`` gives, in a thread where there is much of it to do."""
        if characters <= INLINE_CHARACTERS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, work)

    def _cuts(self, truncate: bool | None) -> bool:
        return self.auto_truncate if truncate is None else truncate

    async def _encoded(
        self, inputs: Sequence[str | list[int]], prefix: str, truncate: bool | None, side: str
    ) -> tuple[list[Ids], Work]:
        tokenizer, cut = self.embedder.tokenizer, self._cuts(truncate)
        work = Work(self, prefix, characters=sum(len(item) for item in inputs))
        self._check_ids(inputs)

        def encode() -> list[Encoded]:
            texts = [
                item if isinstance(item, str) else self._decoded(item) for item in inputs if isinstance(item, str) or prefix
            ]
            from_texts = iter(tokenizer.encode(texts, prefix=prefix, truncate=cut, truncation_side=side))
            return [
                next(from_texts) if isinstance(item, str) or prefix else self._ended(item, cut, side, index)
                for index, item in enumerate(inputs)
            ]

        return await self._tokenized(work, inputs, encode), work

    def _check_ids(self, inputs: Sequence[str | list[int]]) -> None:
        for index, item in enumerate(inputs):
            if not isinstance(item, str) and max(item) >= self.vocabulary:
                known = f"expected less than {self.vocabulary}"
                raise RefusedError(
                    "invalid_value", f"token id {max(item)} is not in the vocabulary, {known}", param=f"[{index}]"
                )

    def _decoded(self, ids: list[int]) -> str:
        """What a prompt is put in front of, as text-embeddings-inference does it."""
        text: str = self.tokenizer.raw.decode(ids, skip_special_tokens=True)
        return text

    def _ended(self, ids: list[int], cut: bool, side: str, index: int) -> Encoded:
        """Token ids as they are, ended as the model's texts end: the vector is taken at that token."""
        final = self.tokenizer.final_ids
        ended = ids if ids[-len(final) :] == final else ids + final
        return self.tokenizer.fitted(ended, cut, side, index=index)

    async def _tokenized(self, work: Work, texts: Sequence[Any], encode: Callable[[], list[Encoded]]) -> list[Ids]:
        started = monotonic()
        try:
            encoded = await self.in_thread(sum(map(len, texts)), encode)
        except Q3Error as error:
            raise refusal_of(error) from error
        work.tokenization = monotonic() - started
        work.tokens = sum(len(item.ids) for item in encoded)
        work.truncated = [index for index, item in enumerate(encoded) if item.truncated]
        self._metrics.texts.labels(self.name).observe(len(encoded))
        self._metrics.tokenization_seconds.labels(self.name).observe(work.tokenization)
        self._metrics.truncated.labels(self.name).inc(len(work.truncated))
        for item in encoded:
            self._metrics.text_tokens.labels(self.name).observe(len(item.ids))
        return [item.ids for item in encoded]

    async def _answer(self, ids: list[Ids], work: Work, alone: Callable[[Ids], Any] | None = None) -> list[Any]:
        try:
            rows, work.timing = await self._scheduler.answer(ids, alone)
        except Q3Error as error:
            raise refusal_of(error) from error
        self._metrics.queue_seconds.labels(self.name).observe(work.timing.queue)
        return rows

    def _run(self, ids: Sequence[Ids]) -> Sequence[Any]:
        """In a thread of the scheduler: a row each, or what was wrong with it."""
        found = self.model.run(ids)
        return [_checked(found[row : row + 1], self.kind) for row in range(len(ids))]

    def _token_states(self, ids: Ids) -> Vectors:
        """In a thread of the scheduler, [T, D]."""
        states = self.embedder.run_tokens(ids)
        check_finite(states, [0] * len(states))
        return states


def _checked(row: Vectors, kind: str) -> Vectors | NonFiniteError:
    try:
        check_finite(row, [0], what="vector" if kind == "embedding" else "score")
    except NonFiniteError as error:
        return error
    result: Vectors = row[0]
    return result
