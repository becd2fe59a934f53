"""Which tools can load the folder and get the model's vectors: what each of them asks for."""

import glob
from collections.abc import Callable, Iterator
from typing import NamedTuple

from q3_runtime.doctor.findings import Finding
from q3_runtime.doctor.graph import POOLED, SCORES, Graph
from q3_runtime.doctor.patient import Patient
from q3_runtime.quants import QUANTS
from q3_runtime.session import version

TEI_ONNXRUNTIME = "1.22"
PLACES = ("model.onnx", "onnx/model.onnx")
SUFFIXES = (*(quant.suffix for quant in QUANTS.values()), "_uint8", "_bnb4", "_q2", "_q2f16", "_q1", "_q1f16")
"""Those that transformers.js knows (conventions of its utils/dtypes.js, 4.2)."""


class Verdict(NamedTuple):
    """Whether a tool takes the examined graph, and what it would stumble over."""

    tool: str
    obstacles: list[str]

    @property
    def loads(self) -> bool:
        """Nothing stands in the way."""
        return not self.obstacles


Rule = Callable[[Patient, Graph], Iterator[str]]


def _ours(patient: Patient, graph: Graph) -> Iterator[str]:
    del graph
    if patient.manifest is None:
        yield "no q3.json that can be read"


def _sentence_transformers(patient: Patient, graph: Graph) -> Iterator[str]:
    """By way of optimum, and of the modules that modules.json names."""
    yield from _optimum(patient, graph)
    if "1_Pooling" not in patient.module_paths:
        yield "no modules.json with 1_Pooling: it would take the mean of all tokens"
    elif patient.is_qwen3 and patient.pooling != "lasttoken":
        yield f"1_Pooling/config.json says {patient.pooling}"


def _optimum(patient: Patient, graph: Graph) -> Iterator[str]:
    if "model_type" not in patient.config:
        yield "no config.json with a model_type"
    if graph.caches:
        yield "a KV cache, which ORTModelForFeatureExtraction does not feed"
    if graph.states is None:
        yield "no last_hidden_state"
    yield from _old_transformers(patient)
    yield from _strange(graph)


def _fastembed(patient: Patient, graph: Graph) -> Iterator[str]:
    for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json"):
        if name not in patient.files:
            yield f"no {name}"
    if others := [name for name in graph.inputs if name not in ("input_ids", "attention_mask", "token_type_ids")]:
        yield f"it feeds no {', '.join(others[:2])}{' …' if len(others) > 2 else ''}"
    if graph.states is None and POOLED not in graph.outputs:
        yield "no output of vectors"


def _transformers_js(patient: Patient, graph: Graph) -> Iterator[str]:
    if (name := patient.graph_name) not in [f"onnx/model{suffix}.onnx" for suffix in SUFFIXES]:
        yield f"{name}, it looks for onnx/model.onnx and the like"
    if "tokenizer_config.json" not in patient.files or patient.tokenizer is None:
        yield "no tokenizer.json and tokenizer_config.json"
    if patient.is_qwen3 and patient.padding_side != "left":
        yield "padding on the right, and it takes the last position"
    if graph.states is None:
        yield "no last_hidden_state for its pipeline"
    data = [path.name for path in patient.graph.parent.glob(f"{glob.escape(patient.graph.name)}[._]data*")]
    hints = patient.config.get("transformers.js_config")
    outside = hints.get("use_external_data_format") if isinstance(hints, dict) else None
    if data and not (outside.get(patient.graph.name) if isinstance(outside, dict) else outside):
        yield "config.json does not say that weights are in a file of their own (transformers.js_config)"
    elif wrong := [path for path in data if not path.startswith(f"{patient.graph.name}_data")]:
        yield f"weights in {wrong[0]}, it looks for {patient.graph.name}_data"
    yield from _strange(graph)


def _tei(patient: Patient, graph: Graph) -> Iterator[str]:
    """Read in text-embeddings-inference 1.9.3: router/src/lib.rs, backends/ort/src/lib.rs."""
    if (name := patient.graph_name) not in PLACES:
        yield f"{name}, it looks for onnx/model.onnx alone (q3-export --layout tei)"
    pooling = patient.files.get("1_Pooling/config.json")
    if not isinstance(pooling, dict) or not {"pooling_mode_cls_token", "pooling_mode_mean_tokens"} <= pooling.keys():
        yield "no 1_Pooling/config.json with the booleans of its older form"
    elif patient.is_qwen3 and patient.pooling != "lasttoken":
        yield f"1_Pooling/config.json says {patient.pooling}"
    heads, hidden = patient.config.get("num_key_value_heads"), patient.config.get("hidden_size")
    if graph.caches and isinstance(heads, int) and isinstance(hidden, int) and heads:
        size, real = hidden // heads, graph.inputs[graph.caches[0]].shape[-1]
        if size != real:
            yield f"a KV cache with heads of {real}, it feeds {size}"
    answered = next((name for name in (POOLED, "last_hidden_state", "token_embeddings") if name in graph.outputs), None)
    if answered is None:
        yield "no output that it knows"
    elif graph.outputs[answered].type != "tensor(float)":
        yield f"{answered} is not float32"
    needed = patient.manifest.quants[patient.quant].min_onnxruntime if patient.manifest and patient.quant else TEI_ONNXRUNTIME
    if version(needed) > version(TEI_ONNXRUNTIME):
        yield f"a graph for onnxruntime {needed} and newer, TEI 1.9.3 has {TEI_ONNXRUNTIME} (q3-export --layout tei)"
    yield from _strange(graph)


def _cross_encoder(patient: Patient, graph: Graph) -> Iterator[str]:
    """By way of optimum, which has classifiers and no text generation for it."""
    if not patient.is_cross_encoder:
        yield "no config_sentence_transformers.json with model_type CrossEncoder"
    if patient.transformer_task != "sequence-classification":
        yield "no sentence_bert_config.json with the task sequence-classification"
    if SCORES not in graph.outputs or len(graph.outputs[SCORES].shape) != 2:
        yield "no logits [batch, 1]"
    if graph.caches:
        yield "a KV cache"
    if not (patient.folder / "chat_template.jinja").is_file():
        yield "no chat_template.jinja, so it would leave out the words around query and document"
    yield from _old_transformers(patient)
    yield from _strange(graph)


def _old_transformers(patient: Patient) -> Iterator[str]:
    """optimum-onnx 0.1 asks for transformers before 4.58."""
    if patient.has_listed_special_tokens:
        yield "extra_special_tokens in tokenizer_config.json is a list, its transformers 4 reads additional_special_tokens"


def _strange(graph: Graph) -> Iterator[str]:
    if graph.unknown:
        yield f"inputs that nobody feeds: {', '.join(graph.unknown)}"


LOADERS: dict[str, dict[str, Rule]] = {
    "embedding": {
        "q3-onnx": _ours,
        "sentence-transformers": _sentence_transformers,
        "optimum": _optimum,
        "fastembed": _fastembed,
        "transformers.js": _transformers_js,
        "TEI": _tei,
    },
    "reranker": {"q3-onnx": _ours, "sentence-transformers": _cross_encoder},
}
"""Kind of a model → tool → what it would stumble over."""


EVERYBODY = tuple({tool: None for tools in LOADERS.values() for tool in tools})
AFFECTED = {
    "tokenizer": EVERYBODY, "end of text": EVERYBODY, "shape of the output": EVERYBODY, "running": EVERYBODY,
    "values": EVERYBODY, "neighbours": EVERYBODY, "pooling in the graph": EVERYBODY,
    "integrity": ("q3-onnx",), "prompt": ("sentence-transformers",),
}  # fmt: skip
"""What is wrong for which tools, beside their own rules."""


def verdicts(patient: Patient, graph: Graph, problems: list[Finding]) -> list[Verdict]:
    """One for each tool that takes such models, with what was found wrong by all that was read and measured."""
    said: dict[str, list[str]] = {tool: list(rule(patient, graph)) for tool, rule in LOADERS[patient.kind].items()}
    for tool, obstacles in said.items():
        padded = f"padding on the {patient.padding_side}"
        obstacles += [
            f"{item.check} (the problem above)"
            for item in problems
            if tool in AFFECTED.get(item.check, ()) or item.check == padded
        ]
    return [Verdict(tool, obstacles) for tool, obstacles in said.items()]
