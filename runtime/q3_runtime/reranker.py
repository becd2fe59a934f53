"""Pairs of query and document → how well the one answers the other, from an exported folder, with onnxruntime alone."""

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from q3_runtime import loading
from q3_runtime.errors import UsageError
from q3_runtime.golden import Probe
from q3_runtime.pair_tokenization import PairTokenizer
from q3_runtime.scores import Ranking, Scores, best_first, probabilities
from q3_runtime.self_check import check_score
from q3_runtime.templates import Template
from q3_runtime.tokenization import Encoded, checked, is_list, refuse_table
from q3_runtime.whole_numbers import whole
from q3_runtime.windows import checked_budget, run_windows


class Reranker:
    """An exported reranker, ready to score, in the process that loaded it. Threads may share it.

    Args:
        folder: the exported folder, or ``ORG/NAME`` on the hub: then the files that are used are downloaded.
        quant: which of its quants; None takes the best present for the provider.
        provider: ``auto``, ``cpu``, ``cuda``, or any onnxruntime provider by its name.
        threads: threads of one run; None takes the physical cores that this process may use.
        self_check: score one of the golden pairs now and compare with PyTorch; not done with a template of one's own.
        check_hashes: compare the sha256 of every file that is used with the manifest; remembered between runs.
        template: the words around query and document; None takes the model's own, which it was trained with.
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
        template: Template | None = None,
        revision: str | None = None,
    ) -> None:
        found = loading.find(folder, "reranker", quant=quant, provider=provider, check_hashes=check_hashes, revision=revision)
        self.folder, self.manifest, self.quant, self.provider = found
        self.template = template or Template.from_prompts(self.manifest.prompts)
        path, most = self.folder / "tokenizer.json", self.manifest.max_tokens
        self.tokenizer, self._runner = loading.start(found, threads, lambda: PairTokenizer(path, most, self.template))
        if self_check and template is None:
            check_score(self)

    def close(self) -> None:
        """Give the model's memory back. Using it afterwards is a UsageError; closing twice is fine."""
        self._runner.close()

    def __enter__(self) -> "Reranker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        instruction: str | None = None,
        raw: bool = False,
        batch_tokens: int | None = None,
        truncate: bool = True,
        errors: str = "strict",
        progress: bool = False,
    ) -> Scores:
        """Scores of pairs (query, document), float32 [N]; ``.scale`` says whether they are probabilities or log-odds.

        A pair's score does not depend on the pairs beside it, nor on their order.

        Args:
            pairs: nothing in their texts is read as a special token, ``<|im_end|>`` neither.
            instruction: the task in English; None takes the template's.
            raw: log-odds, logit(yes) − logit(no), instead of the probability of yes against no, 0 to 1.
            batch_tokens: budget of one run, rows × longest row; None: 2,048, on CUDA 8,192.
            truncate: cut pairs longer than the model takes, at the end of the document (said once); False: raise.
            errors: ``strict`` refuses a lone surrogate, ``replace`` puts U+FFFD there.
            progress: a progress bar on standard error.

        Raises:
            TextTypeError, TextError, TooLongError, UsageError, NonFiniteError, TooLargeError: see q3_runtime.errors;
                ProviderError in a fork.
        """
        self._runner.session()
        budget = checked_budget(self.provider, batch_tokens, errors)
        every = list(pairs)

        def encode(window: list[tuple[str, str]], start: int) -> list[Encoded]:
            checked_pairs = [self._checked(start + i, pair, errors) for i, pair in enumerate(window)]
            task = None if instruction is None else checked(instruction, None, errors)
            bodies = [self.template.fill(query, document, task) for query, document in checked_pairs]
            fronts = [self.template.fill(query, "", task) for query, _ in checked_pairs]
            return self.tokenizer.encode(bodies, truncate=truncate, first_index=start, fronts=fronts)

        found = np.empty(len(every), dtype=np.float32)
        windows = run_windows(
            self._runner, every, encode, what="score", budget=budget, max_tokens=self.manifest.max_tokens,
            progress=progress,
        )  # fmt: skip
        for rows, logits in windows:
            found[rows] = logits[:, 0]
        return Scores(found, "log_odds") if raw else Scores(probabilities(found), "probability")

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        instruction: str | None = None,
        raw: bool = False,
        **options: Any,
    ) -> Ranking:
        """``(index, score)`` of the documents, best first; equal log-odds in the order given. ``.scale`` as for :meth:`score`.

        Args:
            query: one query.
            documents: its candidates.
            top_n: how many to give; None: all.
            instruction: the task in English; None takes the template's.
            raw: log-odds instead of probabilities, in the same order.
            options: further ones of :meth:`score`.

        Raises:
            UsageError: ``top_n`` is no whole number of at least 1, ``documents`` no list; InputError: they are a table; others
                as for :meth:`score`.
        """
        if top_n is not None and whole(top_n, 1) is None:
            raise UsageError(f"top_n is {top_n!r}, expected a whole number of at least 1, or None")
        refuse_table(documents)
        if not is_list(documents):
            raise UsageError(f"documents is a {type(documents).__name__}, expected a list of texts")
        odds = self.score([(query, document) for document in documents], instruction=instruction, raw=True, **options)
        scores = odds if raw else Scores(probabilities(odds), "probability")
        return Ranking(((row, float(scores[row])) for row in best_first(odds)[:top_n]), scores.scale)

    def run(self, ids: Sequence[npt.NDArray[np.int64]], *, padding_side: str = "right") -> npt.NDArray[np.float32]:
        """Log-odds of B token sequences, float32 [B, 1], not checked for NaN.

        Raises:
            TooLargeError, ProviderError, UsageError: see q3_runtime.runner.
        """
        return self._runner.run(ids, range(len(ids)), padding_side)

    def encode_probes(self, probes: Sequence[Probe]) -> list[Encoded]:
        """Token ids of golden pairs, whose texts are filled bodies."""
        return self.tokenizer.encode([probe.text for probe in probes])

    def _checked(self, index: int, pair: tuple[str, str], errors: str) -> tuple[str, str]:
        if not is_list(pair) or len(pair) != 2:
            raise UsageError(f"pair {index} is {str(pair)[:60]!r}, expected (query, document); pass a list of such pairs")
        query, document = (checked(text, index, errors) for text in pair)
        return query, document
