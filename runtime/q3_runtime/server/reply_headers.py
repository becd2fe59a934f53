"""What an answer says of itself in its headers: text-embeddings-inference's names, and what was put in front and cut."""

import json
from collections.abc import Sequence

from q3_runtime.server.served_model import Work

MOST = 1000
"""Characters of a header."""


def headers_of(work: Work | None, seconds: float) -> dict[str, str]:
    """Of an answer that took ``seconds``; times are in milliseconds. Nothing where no model worked."""
    if work is None:
        return {}
    times = {
        "total": seconds, "tokenization": work.tokenization, "queue": work.timing.queue, "inference": work.timing.inference
    }  # fmt: skip
    said = {f"x-{name}-time": str(round(1000 * taken)) for name, taken in times.items()} | {
        "x-compute-type": "cpu" if work.model.model.provider.startswith("CPU") else "gpu",
        "x-compute-time": str(round(1000 * (work.tokenization + work.timing.inference))),
        "x-compute-characters": str(work.characters),
        "x-compute-tokens": str(work.tokens),
        "x-q3-model": in_ascii(work.model.name),
        "x-q3-quant": work.model.model.quant,
        "x-q3-prompt": in_ascii(work.prompt),
    }
    if work.truncated:
        said["x-q3-truncated"] = listed(work.truncated)
    return said


def listed(numbers: Sequence[int]) -> str:
    """As many as a header holds, each whole."""
    text = ",".join(map(str, numbers))
    return text if len(text) <= MOST else text[: text.rindex(",", 0, MOST)] + ",..."


def in_ascii(text: str) -> str:
    """What a header can hold: characters beyond ASCII, and ends of lines, escaped as in JSON."""
    return json.dumps(text)[1:-1][:MOST].strip()
