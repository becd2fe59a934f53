"""The finished folder against PyTorch's vectors, through the runtime's own code in a process of its own.

A fresh process proves what a user gets, onnxruntime without torch, and gives the memory back when it ends.
"""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from q3_runtime.errors import FidelityError, ProviderError, Q3Error
from q3_runtime.fidelity import failures
from q3_runtime.memory import give_back_freed
from q3_runtime.quants import CUDA_ORDER, QUANTS


@dataclass(frozen=True)
class Judge:
    """Measures a quant of a finished folder and says whether it is good enough.

    ``min_cosine`` replaces an embedding model's min floor of the quant's row; ``device`` is ``cpu`` or ``cuda``.
    """

    kind: str
    """Of the model: ``embedding`` or ``reranker``."""
    min_cosine: float | None = None
    device: str = "cpu"
    progress: bool = False

    def floor(self, quant: str) -> dict[str, float]:
        """The limits with which an export fails."""
        return QUANTS[quant].floor(self.kind) | ({} if self.min_cosine is None else {"min": self.min_cosine})

    def measure(self, folder: Path, quant: str) -> dict[str, Any]:
        """See :func:`measure_in_child`."""
        return measure_in_child(folder, quant, provider=provider_of(self.device, quant), progress=self.progress)

    def verdict(self, result: dict[str, Any], quant: str) -> dict[str, Any]:
        """The fidelity as the manifest keeps it: figures and the floor that they reach.

        Raises:
            FidelityError: they do not reach it.
        """
        floor = self.floor(quant)
        lowered = floor.get("min", 1.0) < QUANTS[quant].min_floor
        return judged(result, quant, floor) | ({"floor_lowered": True} if lowered else {})


def provider_of(device: str, quant: str) -> str:
    """Where a quant is verified: CUDA does not run each of them whole."""
    return device if quant in CUDA_ORDER else "cpu"


def measure_in_child(folder: Path, quant: str, *, provider: str = "cpu", progress: bool = False) -> dict[str, Any]:
    """What ``q3 verify --json`` says of one quant: the figures of the manifest, and ``worst``, its worst probes.

    Raises:
        ProviderError: the child was killed, as Linux does where memory runs out.
        Q3Error: the folder cannot be loaded; with the child's message and exit code.
    """
    command = [sys.executable, "-P", "-m", "q3_runtime.cli", "verify", str(folder), "--json"]
    command += ["--quant", quant, "--provider", provider, *([] if progress else ["--quiet"])]
    give_back_freed()  # the child needs it
    child = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=None if progress else subprocess.PIPE, check=False, start_new_session=True
    )
    if child.returncode == -signal.SIGKILL:
        raise ProviderError(
            f"verification of {quant} was killed, most likely because memory ran out; close other programs, or pass "
            "--no-verify and measure elsewhere with q3 verify"
        )
    try:
        result: dict[str, Any] = json.loads(child.stdout)["quants"][quant]
    except (ValueError, KeyError) as error:
        detail = (child.stderr or b"").decode("utf-8", "replace").strip().split("\n")[-1]
        failure = Q3Error(f"verification of {quant} ended with exit code {child.returncode}: {detail or 'see above'}")
        failure.exit_code = child.returncode if child.returncode > 0 else 1
        raise failure from error
    return result


def judged(result: dict[str, Any], quant: str, floor: dict[str, float]) -> dict[str, Any]:
    """The figures with their floor, if they reach it.

    Raises:
        FidelityError: they do not; the message names the worst probes.
    """
    figures = {key: value for key, value in result.items() if key not in ("worst", "failures", "floor", "provider")}
    found = failures(figures, floor, quant)
    if found:
        probes = "; ".join(
            f"probe {row['probe']} ({row['group']}) {row.get('cosine', row.get('score_delta')):.6f} {row['text']!r}"
            for row in result["worst"]
        )
        raise FidelityError(
            f"{quant}: {', '.join(found)}; worst: {probes}; nothing was written; try another quant, q8 or fp32 say"
        )
    return figures | {"floor": floor}
