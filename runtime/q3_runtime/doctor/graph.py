"""A stranger's graph: what it takes and gives, and how to run it all the same."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from q3_runtime.session import PROVIDERS, load_graph

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
CACHE = "past_key_values"
TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32, "tensor(float16)": np.float16}
STATES = ("last_hidden_state", "token_embeddings", "hidden_states")
POOLED = "sentence_embedding"
SCORES = "logits"
MAX_SECONDS = 120
"""Of a run; an 8B model takes some seconds for these texts."""


class Tensor(NamedTuple):
    """An input or output of a graph. ``shape`` has names or None where a length is free."""

    name: str
    type: str
    shape: list[Any]

    def __str__(self) -> str:
        return f"{self.name} {self.type.removeprefix('tensor(').removesuffix(')')} {self.shape}".replace("'", "")


class RunError(Exception):
    """A graph that cannot be fed or does not run; one line says why."""


class Graph:
    """A graph in a session on the CPU.

    Raises:
        ProviderError: onnxruntime cannot load it.
    """

    def __init__(self, path: Path) -> None:
        self.session = load_graph(path, PROVIDERS["cpu"])
        self.inputs = {item.name: Tensor(item.name, item.type, item.shape) for item in self.session.get_inputs()}
        self.outputs = {item.name: Tensor(item.name, item.type, item.shape) for item in self.session.get_outputs()}

    @property
    def caches(self) -> list[str]:
        """Inputs that are a KV cache."""
        return [name for name in self.inputs if name.startswith(CACHE)]

    @property
    def unknown(self) -> list[str]:
        """Inputs that nobody who embeds texts would know what to feed."""
        known = {"input_ids", "attention_mask", "position_ids", "token_type_ids", *self.caches}
        return [name for name in self.inputs if name not in known]

    @property
    def states(self) -> str | None:
        """The output [B, T, D] with a vector for each token."""
        return next((name for name in STATES if name in self.outputs), None)

    def run(
        self, rows: Sequence[Ids], output: str, *, side: str = "right", padding: int = 0, pad_id: int = 0
    ) -> tuple[Values, Ids]:
        """Token ids [T] each → the output and the mask [B, T], padded on one side to the longest and ``padding`` more."""
        width = max(map(len, rows)) + padding
        ids, mask = np.full((len(rows), width), pad_id, np.int64), np.zeros((len(rows), width), np.int64)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
            ids[i, place], mask[i, place] = row, 1
        return self.run_masked(ids, mask, output), mask

    def run_masked(self, ids: Ids, mask: Ids, output: str) -> Values:
        """One output for ids and mask [B, T]; positions count what the mask keeps, a KV cache is empty.

        Raises:
            RunError: an input of another type or shape than such a graph has, or onnxruntime cannot run it.
        """
        given = {
            "input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids),
            "position_ids": np.maximum(mask.cumsum(1) - 1, 0),
        }  # fmt: skip
        if strange := [str(item) for item in self.inputs.values() if item.type not in TYPES]:
            raise RunError(f"input {strange[0]}, expected int64")
        feeds = {name: given[name].astype(TYPES[item.type]) for name, item in self.inputs.items() if name in given}
        for name in self.caches:
            item = self.inputs[name]
            if len(item.shape) != 4 or not all(type(item.shape[axis]) is int for axis in (1, 3)):
                raise RunError(
                    f"input {item}, expected [batch, heads, past, head_dim] with numbers for the second and the last"
                )
            feeds[name] = np.zeros((len(ids), item.shape[1], 0, item.shape[3]), TYPES[item.type])
        try:
            return np.asarray(self._run(output, feeds), dtype=np.float32)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise RunError(f"{len(ids)} texts of {ids.shape[1]} tokens: {' '.join(str(error).split())[:300]}") from error

    def _run(self, output: str, feeds: dict[str, npt.NDArray[Any]]) -> Any:
        """One output; a graph may hold an endless loop."""
        from onnxruntime import RunOptions

        options = RunOptions()
        timer = threading.Timer(MAX_SECONDS, setattr, (options, "terminate", True))
        timer.start()
        try:
            return self.session.run([output], feeds, options)[0]
        except Exception as error:
            if options.terminate:
                raise TimeoutError(f"not done after {MAX_SECONDS} s") from error
            raise
        finally:
            timer.cancel()


def pooled(states: Values, mask: Ids, pooling: str) -> Values:
    """Vectors [B, D] of unit length from those of the tokens [B, T, D].

    Args:
        states: of each token.
        mask: 1 where there is one, [B, T].
        pooling: ``mean_tokens`` or ``mean``, ``cls_token`` or ``cls``, else the last token.
    """
    if pooling.startswith("mean"):
        vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    else:
        first, last = mask.argmax(1), mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
        vectors = states[np.arange(len(states)), first if pooling.startswith("cls") else last]
    return unit(vectors)


def unit(vectors: Values) -> Values:
    """Of length 1; a zero or a value that is not finite stays what it is."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)
