"""What an answer says of itself in its headers: text-embeddings-inference's names, and what was put in front and cut."""

import json

from q3_runtime.server.served_model import Work


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
        said["x-q3-truncated"] = in_ascii(",".join(map(str, work.truncated)))
    return said


def in_ascii(text: str, most: int = 1000) -> str:
    """What a header can hold: characters beyond ASCII, and ends of lines, escaped as in JSON."""
    return json.dumps(text)[1:-1][:most].strip()
