"""golden.json and golden.safetensors: probe texts with their ids and their PyTorch fp32 vectors, or scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from q3_runtime import strict_json
from q3_runtime.errors import IntegrityError, ModelError
from q3_runtime.tensorfile import read_float32

TEXTS_NAME = "golden.json"
VECTORS_NAME = "golden.safetensors"
TENSORS = {"embedding": "embedding", "reranker": "logit"}
"""Kind of a model → name of the tensor in VECTORS_NAME."""


@dataclass(frozen=True)
class Probe:
    """A text, its kind, the group it stands for, and its token ids, prompt included.

    ``kind`` is ``query`` or ``document``; of a reranker's probes ``pair``, and the text is the template's body, filled.
    """

    text: str
    kind: str
    group: str
    ids: list[int]


@dataclass(frozen=True)
class Golden:
    """N probes and their vectors, float32 [N, D], unit length; for a reranker their log-odds, [N, 1]."""

    probes: list[Probe]
    vectors: npt.NDArray[np.float32]

    @classmethod
    def read(cls, folder: Path, kind: str = "embedding") -> "Golden":
        """Read both files of a model of this kind.

        Raises:
            IntegrityError: they are missing, damaged, or do not belong together.
        """
        try:
            probes = [_probe(entry) for entry in strict_json.loads((folder / TEXTS_NAME).read_text("utf-8"))]
            vectors = read_float32(folder / VECTORS_NAME, TENSORS[kind])
            if vectors.ndim != 2 or len(vectors) != len(probes) or not probes:
                raise ValueError(f"{len(probes)} texts, vectors of shape {vectors.shape}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ModelError) as error:
            raise IntegrityError(
                f"{folder}: golden vectors cannot be read ({error}); export or download the folder again"
            ) from error
        return cls(probes, vectors)


def _probe(entry: Any) -> Probe:
    probe = Probe(**entry)
    if {type(probe.text), type(probe.kind), type(probe.group)} != {str} or type(probe.ids) is not list:
        raise TypeError(f"{str(entry)[:80]} is no probe")
    if not probe.ids or {type(number) for number in probe.ids} != {int}:
        raise TypeError(f"ids {str(probe.ids)[:80]}")
    return probe
