"""The folder: side files, graphs and their weights, written so that the same inputs give the same bytes."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from tqdm import tqdm

from q3_export.chat_template import chat_template
from q3_export.checkpoint import Checkpoint
from q3_export.config_check import read_json
from q3_export.recipes import Recipe
from q3_export.side_files import normalizes
from q3_export.tokenizer_check import PAD_TOKEN
from q3_runtime.durable import sync_tree
from q3_runtime.hash_memory import sha256
from q3_runtime.manifest import FileEntry, QuantEntry
from q3_runtime.quants import CPU_ORDER, QUANTS

COPIED = ("modules.json", "config_sentence_transformers.json", "special_tokens_map.json")
"""Files of an embedding checkpoint that are taken as they are, where they are there."""
POOLING_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens")


def write_side_files(checkpoint: Checkpoint, graphs: Iterable[str], folder: Path) -> list[str]:
    """Tokenizer, configs and what sentence-transformers reads; returns their names.

    config.json says which ``graphs`` the folder has, for transformers.js; tokenizer.json is copied byte for byte, but for a
    padding or truncation that somebody's last call has left in it.
    The rest is made as the published models have it: newer sentence-transformers write 1_Pooling in a form that TEI does not
    read. A reranker's own files describe the logits of every token, where the graph gives one score.
    """
    source = checkpoint.folder
    _write_tokenizer(source / "tokenizer.json", folder / "tokenizer.json")
    tokenizer_config = read_json(source / "tokenizer_config.json") if (source / "tokenizer_config.json").is_file() else {}
    tokenizer_config = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": PAD_TOKEN} | tokenizer_config
    if isinstance(tokenizer_config.get("extra_special_tokens"), list):  # as transformers 5 writes what 4 calls otherwise
        tokenizer_config["additional_special_tokens"] = tokenizer_config.pop("extra_special_tokens")
    tokenizer_config |= {"padding_side": "left", "model_max_length": checkpoint.max_tokens}
    special = ("eos_token", "pad_token", "additional_special_tokens")
    made = MADE[checkpoint.kind](checkpoint)
    made["special_tokens_map.json"] = {key: tokenizer_config[key] for key in special if tokenizer_config.get(key)}
    if "chat_template.jinja" in made:
        tokenizer_config.pop("chat_template", None)
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    for name, content in made.items():
        (folder / name).parent.mkdir(exist_ok=True)
        is_theirs = name in COPIED and checkpoint.kind == "embedding" and (source / name).is_file()
        if is_theirs and (name != "modules.json" or normalizes(source)):  # the graph does, whatever theirs says
            shutil.copyfile(source / name, folder / name)
        elif isinstance(content, str):
            (folder / name).write_text(content, encoding="utf-8")
        else:
            _write_json(folder / name, content)
    if (source / "LICENSE").is_file():
        shutil.copyfile(source / "LICENSE", folder / "LICENSE")
    _write_json(folder / "config.json", checkpoint.raw_config | {"transformers.js_config": _hints(graphs)})
    return ["config.json", "tokenizer.json", "tokenizer_config.json", *made]


def _of_embedding(checkpoint: Checkpoint) -> dict[str, Any]:
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    pooling: dict[str, Any] = {"word_embedding_dimension": checkpoint.dims} | {
        f"pooling_mode_{mode}": False for mode in POOLING_MODES
    }
    return {
        "modules.json": _modules({path: f"sentence_transformers.models.{name}" for name, path in paths.items()}),
        "1_Pooling/config.json": pooling | {"pooling_mode_lasttoken": True, "include_prompt": True},
        "config_sentence_transformers.json": {
            "prompts": checkpoint.prompts, "default_prompt_name": None, "similarity_fn_name": "cosine",
        },
    }  # fmt: skip


def _of_reranker(checkpoint: Checkpoint) -> dict[str, Any]:
    """One module, whose output is the score: CrossEncoder(backend="onnx") takes it for a classifier with one label."""
    forward = {"method": "forward", "method_output_name": "logits"}
    return {
        "modules.json": _modules({"": "sentence_transformers.base.modules.transformer.Transformer"}),
        "sentence_bert_config.json": {
            "transformer_task": "sequence-classification",
            "modality_config": {"text": forward, "message": forward | {"format": "flat"}},
            "module_output_name": "scores",
        },
        "config_sentence_transformers.json": {
            "activation_fn": "torch.nn.modules.linear.Identity", "default_prompt_name": "query", "model_type": "CrossEncoder",
            "prompts": {"query": checkpoint.prompts["instruction"]},
        },
        "chat_template.jinja": chat_template(checkpoint.prompts),
    }  # fmt: skip


MADE = {"embedding": _of_embedding, "reranker": _of_reranker}
"""Kind of a model → what sentence-transformers reads, by file."""


def _modules(types: dict[str, str]) -> list[dict[str, Any]]:
    return [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(types.items())]


def write_graph(
    model: ir.Model,
    recipe: Recipe,
    described: dict[str, Any],
    folder: Path,
    *,
    kept_wider: Sequence[str] = (),
    progress: bool = False,
) -> QuantEntry:
    """Write graph and weights, one tensor at a time; returns the manifest's entry, with ``described`` as its recipe."""
    path = folder / recipe.quant.onnx_file
    path.parent.mkdir(exist_ok=True)
    data = path.with_name(path.name + "_data")
    data.unlink(missing_ok=True)  # of an earlier round: two would take twice the room
    total = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    with tqdm(total=total, desc=f"write {recipe.quant.name}", unit="B", unit_scale=True, disable=not progress) as bar:
        ir.save(model, path, external_data=data.name, callback=lambda _, place: bar.update(place.offset - bar.n))
        bar.update(bar.total - bar.n)
    sync_tree(path.parent)
    return QuantEntry(
        files=describe(folder, [recipe.quant.onnx_file, recipe.quant.onnx_file + "_data"]),
        recipe=described,
        kept_wider=list(kept_wider),
        min_onnxruntime=recipe.min_onnxruntime,
        inputs=[str(value.name) for value in model.graph.inputs],
        outputs=[str(value.name) for value in model.graph.outputs],
        fidelity=None,
    )


def describe(folder: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    """Size and sha256 of files as they are on the disk."""
    return {name: FileEntry((folder / name).stat().st_size, sha256(folder / name)) for name in names}


def _hints(graphs: Iterable[str]) -> dict[str, Any]:
    """For transformers.js: the type to take, found by its suffix, and that weights are in a file of their own."""
    present = {name: QUANTS[name].onnx_file for name in CPU_ORDER if QUANTS[name].onnx_file in set(graphs)}
    return {"dtype": next(iter(present)), "use_external_data_format": {Path(file).name: 1 for file in present.values()}}


def _write_tokenizer(source: Path, target: Path) -> None:
    content = read_json(source)
    if content.get("padding") or content.get("truncation"):
        _write_json(target, content | {"padding": None, "truncation": None})
    else:
        shutil.copyfile(source, target)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
