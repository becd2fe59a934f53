"""What the files beside the graph say: tokenizer, padding, prompts, pooling."""

import json
from collections.abc import Iterator

from q3_runtime.doctor.findings import Finding, note, ok, problem
from q3_runtime.doctor.patient import END, Patient
from q3_runtime.errors import IntegrityError, StorageError
from q3_runtime.integrity import check_files
from q3_runtime.manifest import MANIFEST_NAME
from q3_runtime.prompts import OFFICIAL_PROMPTS, instruct

QUERY = OFFICIAL_PROMPTS["query"]
POOLING_FILES = "modules.json and 1_Pooling/config.json"


def origin(patient: Patient) -> Iterator[Finding]:
    """Who made it, and whose rules hold."""
    for name, why in patient.damaged.items():
        yield problem("files", f"{name} cannot be read: {why}", f"download or export {name} again")
    if patient.manifest and patient.quant:
        try:
            check_files(patient.folder, patient.manifest.files | patient.manifest.quants[patient.quant].files)
        except (IntegrityError, StorageError, OSError) as error:
            yield problem("integrity", str(error), "q3-onnx refuses such a folder")
    if patient.manifest:
        source = patient.manifest.source["id"]
        yield ok("origin", f"made by q3-export from {source}; q3 verify {patient.folder} checks its hashes and its vectors")
    elif MANIFEST_NAME not in patient.damaged:
        yield note("origin", f"no {MANIFEST_NAME}: nothing here says how near its vectors are to the original model's")
    if not patient.is_qwen3:
        found = patient.config.get("model_type", "not said")
        yield note("family", f"model_type is {found}: the rules for prompts, pooling and tokens of Qwen3 are not applied")


def end_of_text(patient: Patient) -> Iterator[Finding]:
    """An embedding model reads the last token, which the tokenizer has to append; a reranker's template ends by itself."""
    if patient.tokenizer is None:
        yield problem("tokenizer", "no tokenizer.json that can be read", _ANOTHER)
        return
    appended = patient.tokenizer.encode("").ids
    end = patient.tokenizer.token_to_id(END)
    if not patient.is_qwen3:
        yield note("end of text", f"the tokenizer adds {_tokens(patient, appended)}")
    elif patient.kind == "reranker":
        if appended:
            yield problem("end of text", f"appends {_tokens(patient, appended)} to every text, expected nothing", _ANOTHER)
        else:
            yield ok("end of text", "nothing is appended, as a reranker's template wants it")
    elif appended == [end]:
        yield ok("end of text", f"every text ends in {_tokens(patient, appended)}, the token whose vector is taken")
    else:
        text = f"every text ends in {_tokens(patient, appended)}, expected {END} ({end}) alone: the vector is another token's"
        yield problem("end of text", text, _ANOTHER)


_ANOTHER = "copy tokenizer.json of the original model"


def padding_side(patient: Patient) -> Iterator[Finding]:
    """What takes the last position for the last token needs the padding on the left."""
    if not patient.is_qwen3:
        return
    if patient.padding_side == "left":
        yield ok("padding side", "left, so that the last position is the last token")
    else:
        text = f"{patient.padding_side}, expected left: transformers.js and plain [:, -1] would take the vector of padding"
        yield problem("padding side", text, 'set "padding_side": "left" in tokenizer_config.json')


def prompts(patient: Patient) -> Iterator[Finding]:
    """A query's prompt, byte for byte; documents have none."""
    if not patient.is_qwen3 or patient.kind == "reranker":
        return
    found = patient.prompts.get("query")
    remedy = f"set prompts.query to {json.dumps(QUERY)} in config_sentence_transformers.json"
    if not isinstance(found, str):
        yield problem("prompt", "no prompt for queries: they are embedded as if they were documents", remedy)
    elif found == QUERY:
        yield ok("prompt", "queries get the official prompt, without a space after Query:")
    elif found.rstrip() != found and found.rstrip().endswith("Query:"):
        ending = json.dumps(found[found.rindex("Query:") :])
        yield problem("prompt", f'it ends in {ending}, expected "Query:": the query\'s first token is another one', remedy)
    elif found.startswith("Instruct: ") and found.endswith("\nQuery:"):
        yield note("prompt", f"an instruction of its own: {json.dumps(found, ensure_ascii=False)}")
    else:
        shown, form = (json.dumps(text, ensure_ascii=False) for text in (found, instruct("…")))
        yield problem("prompt", f"{shown}, expected the form {form}", remedy)
    if patient.prompts.get("document"):
        shown = json.dumps(patient.prompts["document"], ensure_ascii=False)
        yield problem("prompt", f"documents get {shown}, expected nothing in front", 'set prompts.document to ""')


def pooling(patient: Patient) -> Iterator[Finding]:
    """Which token's vector is taken, by those who pool outside the graph."""
    if not patient.is_qwen3 or patient.kind == "reranker":
        return
    if "1_Pooling" not in patient.module_paths or patient.pooling is None:
        text = f"{POOLING_FILES} do not say how to pool: sentence-transformers then takes the mean of all tokens"
        yield problem("pooling", text, "copy them from the original model")
    elif patient.pooling == "lasttoken":
        yield ok("pooling", "the last token, as the model was trained")
    else:
        text = f"{patient.pooling}, expected lasttoken: the model was trained to gather a text in its last token"
        yield problem("pooling", text, "copy 1_Pooling/config.json of the original model")


CHECKS = (origin, end_of_text, padding_side, prompts, pooling)


def _tokens(patient: Patient, ids: list[int]) -> str:
    assert patient.tokenizer is not None
    return ", ".join(f"{patient.tokenizer.id_to_token(i)} ({i})" for i in ids) or "nothing"
