"""The small files beside config and tokenizer: kind of the model, pooling, licence."""

import json
import re
from pathlib import Path

import tokenizers

from q3_export.config_check import read_json
from q3_runtime.errors import ModelError

TASK = "Judge whether the Document meets the requirements"
"""In every form of Qwen3-Reranker's template."""
KINDS = {"1_Pooling": "embedding", "1_LogitScore": "reranker"}
MODULES = ("", *KINDS, "2_Normalize")
"""Where the modules lie that a graph of ours has."""


def kind_of_modules(folder: Path) -> str | None:
    """What modules.json says of a sentence-transformers model: last-token pooling or a score from logits.

    Raises:
        ModelError: both, or a module that is not exported, Dense say: the vectors would be those of another model.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    try:
        paths = list(dict.fromkeys(module["path"] for module in json.loads(path.read_text("utf-8"))))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not a list of modules ({error}); download it again") from error
    if others := [part for part in paths if part not in MODULES]:
        raise ModelError(
            f"{path}: has {', '.join(map(str, others))}, expected 1_Pooling and 2_Normalize, or 1_LogitScore; one with other "
            "modules cannot be exported",
            fault="E_ARCH",
        )
    parts = [part for part in KINDS if part in paths]
    if len(parts) > 1:
        raise ModelError(
            f"{path}: has {' and '.join(parts)}, expected one of them; use the original checkpoint", fault="E_ARCH"
        )
    return KINDS[parts[0]] if parts else None


def check_pooling(folder: Path) -> None:
    """1_Pooling/config.json, where there is one, asks for the last token and nothing else.

    Raises:
        ModelError: it asks for a mean, say; exported with the last token, the vectors would be those of another model.
    """
    path = folder / "1_Pooling/config.json"
    if not path.is_file():
        return
    pooling = read_json(path)
    modes = sorted(name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True)
    found = pooling.get("pooling_mode") or modes
    if found not in ("lasttoken", ["lasttoken"], ["pooling_mode_lasttoken"]):
        raise ModelError(f"{path}: pooling is {found}, expected lasttoken; only last-token models are exported", fault="E_ARCH")


def max_seq_length(folder: Path) -> int | None:
    """Where sentence-transformers cuts the texts of this model: its own file says, else the tokenizer; None: nobody does.

    Raises:
        ModelError: no length, or texts are to be written in small letters first, which no tokenizer of a folder does.
    """
    own, tokenizer = (folder / name for name in ("sentence_bert_config.json", "tokenizer_config.json"))
    content = read_json(own) if own.is_file() else {}
    if content.get("do_lower_case"):
        raise ModelError(
            f"{own}: do_lower_case is {content['do_lower_case']!r}, expected false; a model that wants it is not exported",
            fault="E_ARCH",
        )
    length = content.get("max_seq_length")
    if length is None and tokenizer.is_file():
        found = read_json(tokenizer).get("model_max_length")
        return found if type(found) is int and found > 1 else None
    if length is not None and (type(length) is not int or length < 2):
        raise ModelError(f"{own}: max_seq_length is {length!r}, expected a whole number of at least 2; correct it")
    return length


def check_similarity(folder: Path) -> None:
    """Vectors come out with length 1, which a model that is compared by more than their direction must ask for.

    Raises:
        ModelError: it has no Normalize, and its similarity is not the cosine.
    """
    path = folder / "config_sentence_transformers.json"
    name = read_json(path).get("similarity_fn_name") if path.is_file() else None
    if name not in (None, "cosine") and (folder / "modules.json").is_file() and not normalizes(folder):
        raise ModelError(
            f"{path}: similarity_fn_name is {name!r} of vectors that are not normalized, expected cosine or 2_Normalize in "
            "modules.json; such a model is not exported",
            fault="E_ARCH",
        )


def normalizes(folder: Path) -> bool:
    """Whether modules.json has Normalize."""
    return "2_Normalize" in [module["path"] for module in json.loads((folder / "modules.json").read_text("utf-8"))]


def answer_ids(folder: Path) -> tuple[int, int]:
    """Token ids of yes and no, between which a reranker decides: tokenizer.json's, which 1_LogitScore must agree with.

    Raises:
        ModelError: it names other tokens; the score would be another one than the checkpoint's.
    """
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    yes, no = (tokenizer.encode(word).ids[0] for word in ("yes", "no"))
    path = folder / "1_LogitScore/config.json"
    if path.is_file():
        stated = read_json(path)
        if (stated.get("true_token_id"), stated.get("false_token_id")) != (yes, no):
            raise ModelError(
                f"{path}: true and false are {stated.get('true_token_id')} and {stated.get('false_token_id')}, expected "
                f"{yes} (yes) and {no} (no); use the original checkpoint",
                fault="E_TOKENIZER",
            )
    return yes, no


def has_other_template(folder: Path) -> bool:
    """Whether a reranker was made to be asked in other words: it has a template of query and document, not Qwen3-Reranker's."""
    own, tokenizer = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    stated = read_json(tokenizer).get("chat_template") if tokenizer.is_file() else None
    template = own.read_text("utf-8", "replace") if own.is_file() else str(stated)
    return bool(re.search(r"""(["'])document\1""", template)) and TASK not in template


def license_of(folder: Path) -> str | None:
    """The licence named at the head of the checkpoint's model card, or None."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    head = re.match(r"---\n(.*?)\n---", card.read_text("utf-8", errors="replace"), re.DOTALL)
    first = r"^license:[ \t]*(?:\n[ \t]*-[ \t]*)?['\"]?(\w[\w.-]*)"  # of one, or of a list
    named = re.search(first, head.group(1), re.MULTILINE) if head else None
    return named.group(1) if named and named.group(1) != "null" else None
