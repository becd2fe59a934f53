"""A folder as it is served: its names, its tokenizer, and the queue in front of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from q3_runtime.embedder import Embedder
from q3_runtime.errors import NonFiniteError, Q3Error
from q3_runtime.prompts import instruct
from q3_runtime.reranker import Reranker
from q3_runtime.server.metrics import Metrics
from q3_runtime.server.reading import Reader
from q3_runtime.server.refusals import RefusedError, overloaded, refusal_of
from q3_runtime.server.scheduling import Limits, Scheduler, Timing
from q3_runtime.server.waiting import Ids
from q3_runtime.tokenization import Encoded, Tokenizer
from q3_runtime.vectors import Vectors, check_finite

MOST_VALUES = 4_000_000
"""Numbers in one answer with a vector for every token: some 45 MB of JSON."""
ANSWERS_AT_ONCE = 4
"""Of so many; what is more gets 429."""


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


@dataclass(frozen=True)
class Asked:
    """Texts of a request, or token ids in their place, and how they are to be read."""

    inputs: Sequence[str | list[int]]
    place: Callable[[int], str]
    """Names a text by its path in the request."""
    prefix: str = ""
    truncate: bool | None = None
    """None: as the server was started."""
    side: str = "right"
    """At which a text that is too long is cut."""


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
        self.aliases = {name, model.folder.resolve().name, source, source.rpartition("/")[2]}
        self._metrics = metrics
        self._values = 0
        self.reader = Reader()
        self._scheduler = Scheduler(self._run, limits, metrics, name)

    def prepare(self) -> None:
        """Load what would hold up the first request that needs it."""
        _ = self.vocabulary, self.tokenizer.longest_token

    def close(self) -> None:
        """Run nothing more."""
        self._scheduler.close()
        self.reader.close()

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
    def computes(self) -> bool:
        """Whether a thread does, perhaps for a client that has left."""
        return self._scheduler.computes

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

    async def vectors(self, asked: Asked) -> tuple[Vectors, Work]:
        """Unit vectors, float32 [N, D].

        Raises:
            RefusedError: the request cannot be answered.
        """
        ids, work = await self._encoded(asked)
        return np.stack(await self._answer(ids, work, asked)), work

    async def raw_vectors(self, asked: Asked) -> tuple[Vectors, Work]:
        """Hidden states of the last tokens, float32 [N, D], not normalized; each text is run alone."""
        ids, work = await self._encoded(asked)
        return np.stack(await self._answer(ids, work, asked, lambda row: self._token_states(row)[-1].copy())), work

    async def token_vectors(self, asked: Asked) -> tuple[list[Vectors], Work]:
        """Hidden states of every token of each text, N times float32 [T, D], not normalized; each text is run alone.

        Raises:
            RefusedError: more values than one answer may have, or all that are being made together.
        """
        ids, work = await self._encoded(asked)
        values, most = work.tokens * self.embedder.dims, MOST_VALUES // self.embedder.dims
        if values > MOST_VALUES:
            raise RefusedError("too_many_tokens", f"{work.tokens} tokens to give a vector each, expected at most {most}")
        if self._values + values > ANSWERS_AT_ONCE * MOST_VALUES:
            raise overloaded()
        self._values += values
        try:
            return await self._answer(ids, work, asked, self._token_states), work
        finally:
            self._values -= values

    async def log_odds(self, query: str, asked: Asked, instruction: str | None) -> tuple[npt.NDArray[np.float32], Work]:
        """Of each text that it answers the query, float32 [N]."""
        reranker, cut = self.reranker, self._cuts(asked.truncate)
        words = reranker.template.instruction if instruction is None else instruction
        work = Work(self, words, characters=sum(map(len, asked.inputs)) + len(query))

        def encode() -> list[Encoded]:
            bodies = [reranker.template.fill(query, str(text), words) for text in asked.inputs]
            fronts = [reranker.template.fill(query, "", words)] * len(bodies)
            return reranker.tokenizer.encode(bodies, truncate=cut, fronts=fronts)

        ids = await self._tokenized(work, asked, len(query) + len(words), encode)
        return np.array([row[0] for row in await self._answer(ids, work, asked)], dtype=np.float32), work

    def prefix(self, prompt_name: str | None, instruction: str | None, input_type: str | None) -> str:
        """The prompt that a request asks for, by at most one of the three; none of them: none.

        Raises:
            RefusedError: several, or a name that the model does not have.
        """
        given = {"prompt_name": prompt_name, "instruction": instruction, "input_type": input_type}
        named = [name for name, value in given.items() if value is not None]
        if not named:
            return ""
        prompts = self.embedder.prompts
        if len(named) > 1:
            raise RefusedError("invalid_value", f"{' and '.join(named)} given together, expected one of them", param=named[1])
        if instruction is not None:
            return instruct(instruction)
        name = str(prompt_name) if input_type is None else input_type.removeprefix("search_")
        if name not in prompts:
            there = ", ".join(sorted(prompts))
            raise RefusedError("invalid_value", f"no prompt is called {name!r}, this model has {there}", param=named[0])
        return prompts[name]

    def _cuts(self, truncate: bool | None) -> bool:
        return self.auto_truncate if truncate is None else truncate

    async def _encoded(self, asked: Asked) -> tuple[list[Ids], Work]:
        tokenizer, cut, prefix = self.embedder.tokenizer, self._cuts(asked.truncate), asked.prefix
        work = Work(self, prefix, characters=sum(map(len, asked.inputs)))
        self._check_ids(asked)

        def encode() -> list[Encoded]:
            as_texts = [item for item in asked.inputs if isinstance(item, str) or prefix]
            texts = [item if isinstance(item, str) else self._decoded(item) for item in as_texts]
            encoded = iter(tokenizer.encode(texts, prefix=prefix, truncate=cut, truncation_side=asked.side))
            return [
                next(encoded) if isinstance(item, str) or prefix else self._ended(item, cut, asked.side, index)
                for index, item in enumerate(asked.inputs)
            ]

        return await self._tokenized(work, asked, len(prefix), encode), work

    def _check_ids(self, asked: Asked) -> None:
        for index, item in enumerate(asked.inputs):
            if not isinstance(item, str) and max(item) >= self.vocabulary:
                known = f"expected below {self.vocabulary}"
                place = asked.place(index)
                raise RefusedError("invalid_value", f"token id {max(item)} is not in the vocabulary, {known}", param=place)

    def _decoded(self, ids: list[int]) -> str:
        """What a prompt is put in front of, as text-embeddings-inference does it."""
        text: str = self.tokenizer.raw.decode(ids, skip_special_tokens=True)
        return text

    def _ended(self, ids: list[int], cut: bool, side: str, index: int) -> Encoded:
        """Token ids as they are, ended as the model's texts end: the vector is taken at that token."""
        final = self.tokenizer.final_ids
        ended = ids if ids[-len(final) :] == final else ids + final
        return self.tokenizer.fitted(ended, cut, side, index=index)

    async def _tokenized(self, work: Work, asked: Asked, in_front: int, encode: Callable[[], list[Encoded]]) -> list[Ids]:
        """``in_front`` are the characters that each text gets. What cannot be admitted is not read."""
        self._scheduler.check_room(sum(self._least_tokens(item, in_front) for item in asked.inputs), at_least=True)
        started = monotonic()
        try:
            encoded = await self.reader.run(work.characters + in_front * len(asked.inputs), encode)
        except Q3Error as error:
            raise refusal_of(error, asked.place) from error
        work.tokenization = monotonic() - started
        work.tokens = sum(len(item.ids) for item in encoded)
        work.truncated = [index for index, item in enumerate(encoded) if item.truncated]
        self._metrics.texts.labels(self.name).observe(len(encoded))
        self._metrics.tokenization_seconds.labels(self.name).observe(work.tokenization)
        self._metrics.truncated.labels(self.name).inc(len(work.truncated))
        for item in encoded:
            self._metrics.text_tokens.labels(self.name).observe(len(item.ids))
        return [item.ids for item in encoded]

    def _least_tokens(self, item: str | list[int], in_front: int) -> int:
        """Of an item: no token stands for more characters than the longest of the vocabulary."""
        tokens = 1 + (in_front + len(item)) // self.tokenizer.longest_token if isinstance(item, str) else 1
        return min(tokens, self.model.manifest.max_tokens)

    async def _answer(self, ids: list[Ids], work: Work, asked: Asked, alone: Callable[[Ids], Any] | None = None) -> list[Any]:
        try:
            rows, work.timing = await self._scheduler.answer(ids, alone)
        except Q3Error as error:
            raise refusal_of(error, asked.place) from error
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
