"""Which texts of an MTEB task the official evaluation of Qwen3-Embedding gives an instruction, and which instruction.

Source: QwenLM/Qwen3-Embedding on GitHub at the commit that data/task_prompts_source.json names. There, ``get_instruction`` in
evaluation/qwen3_embedding_model.py holds the rules that :func:`instruction` follows, and evaluation/task_prompts.json the
wording, by the name of the task. That repository states no licence at this commit, so the wording is no part of this package:
:func:`read` takes a copy of the file and compares it with the sha256 that the repository lists. A task without an entry gets
MTEB's own wording, there as here; :func:`by_name` has it.
"""

import hashlib
import json
from collections.abc import Mapping
from difflib import get_close_matches
from os import PathLike
from pathlib import Path

from q3_runtime import strict_json
from q3_runtime.errors import InputError, IntegrityError

Instructions = Mapping[str, str | Mapping[str, str]]
"""Name of a task → its instruction, or ``{"query": …, "passage": …}`` where both sides get one."""

SIMILAR = "Retrieve semantically similar text"
"""The official instruction of every STS and PairClassification task, for both texts, whatever the wording file says."""
DATA = Path(__file__).parent / "data"
SOURCE: dict[str, str | int] = json.loads((DATA / "task_prompts_source.json").read_text("utf-8"))
"""Where the wording is published: repository, commit, path, url, bytes, sha256, licence."""


def instruction(task: str, kind: str, side: str | None, wording: Instructions, own: str) -> str:
    """The instruction for the texts of one side of a task; empty: they get none.

    Args:
        task: name of the task, as MTEB has it.
        kind: MTEB's type of the task: ``STS``, ``Retrieval``, ``Reranking`` …
        side: ``query``, ``document``, or None where the texts are neither.
        wording: instructions by the name of the task.
        own: MTEB's instruction for these texts, taken where ``wording`` has none.
    """
    if kind in ("STS", "PairClassification"):
        return SIMILAR
    found = wording.get(task, own)
    if isinstance(found, Mapping):
        return found.get({"query": "query", "document": "passage"}.get(side or "", ""), "")
    if "Retrieval" in kind and side != "query":
        return ""
    return found if found.strip() else ""


def by_name(task: str, side: str = "query") -> str:
    """MTEB's instruction for a task, to pass as ``instruction=`` to an Embedder; empty where this side gets none.

    From data/task_instructions.json, which names its source; mteb need not be installed.

    Args:
        task: name of the task, as MTEB has it: ``SciFact``.
        side: ``query`` or ``document``; most tasks have an instruction for queries, or one for all their texts.

    Raises:
        InputError: no such task there.
    """
    tasks: Instructions = json.loads((DATA / "task_instructions.json").read_text("utf-8"))["tasks"]
    if task not in tasks:
        near = ", ".join(get_close_matches(task, tasks)) or f"{', '.join(list(tasks)[:3])} …"
        raise InputError(f"task {task!r} is none of the {len(tasks)} that have an instruction, expected {near}; check the name")
    found = tasks[task]
    if isinstance(found, str):
        return found if side == "query" or "Retrieval" not in task else ""  # as for instruction(), by MTEB's names
    return found.get(side, "")


def read(path: str | PathLike[str], sha256: str = str(SOURCE["sha256"])) -> Instructions:
    """The wording from a copy of the official file.

    Args:
        path: the copy.
        sha256: what its bytes must hash to; by default what the official repository lists.

    Raises:
        IntegrityError: other bytes.
        InputError: JSON of another form.
    """
    content = Path(path).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise IntegrityError(f"{path}: sha256 is {found}, expected {sha256}; take {SOURCE['path']} from {SOURCE['url']}")
    try:
        wording = strict_json.loads(content.decode("utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: {error}, expected JSON of instructions by task") from error
    _check(path, wording)
    return wording  # type: ignore[no-any-return]  # checked in the line above


def _check(path: str | PathLike[str], wording: object) -> None:
    if not isinstance(wording, dict):
        raise InputError(f"{path}: {type(wording).__name__}, expected an object of instructions by task")
    for task, text in wording.items():
        if not all(isinstance(part, str) for part in (text.values() if isinstance(text, dict) else [text])):
            raise InputError(f"{path}: {task} is no text, expected an instruction, or one for query and one for passage")
