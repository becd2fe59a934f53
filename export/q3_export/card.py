"""The model card: what the folder is, how faithful it was measured to be, and how to use it."""

from dataclasses import dataclass
from importlib.resources import files

from q3_runtime.manifest import Manifest, QuantEntry
from q3_runtime.quants import QUANTS
from q3_runtime.saturation import PRECISE

HEAD = """---
{front}
---

# {title}

{summary} Made with q3-onnx {version}.

## Fidelity

{measured}

| quant | file | MB | {columns} |
|---|---|---|{rule}
"""

MEASURED = """{measured}, measured when each quant was made, over the {probes} {texts} in `golden.json`; anyone can measure it
again on their own machine with `q3 verify DIR`."""
UNMEASURED = """Not measured: made with `--no-verify`. `q3 verify DIR` compares it on any machine with PyTorch in float32, over
the {texts} in `golden.json`."""

LOSSY = """

A CPU without VNNI or AMX (Intel before Ice Lake and Alder Lake, AMD before Zen 4) loses sums of 8-bit products in
onnxruntime. q3-onnx notices and has {names} computed precisely; other tools do not and get wrong vectors or scores: there, use
another quant, or give them `SessionOptions` with `add_session_config_entry("{entry}", "1")`."""


@dataclass(frozen=True)
class Form:
    """What the card of one kind of model says. ``columns``: figure of q3.json → heading and format."""

    tags: str
    pipeline_tag: str
    summary: str
    measured: str
    texts: str
    columns: dict[str, tuple[str, str]]


FORMS = {
    "embedding": Form(
        tags="sentence-similarity, onnx, transformers.js",
        pipeline_tag="feature-extraction",
        summary=(
            "`{source}` as ONNX, with last-token pooling and normalization in the graph: `input_ids` and `attention_mask` in, "
            "unit\nvectors of {dims} dimensions out, padded on either side."
        ),
        measured="Cosine to PyTorch in float32",
        texts="texts",
        columns={
            "mean": ("mean", ".6f"), "p5": ("5th percentile", ".6f"), "min": ("min", ".6f"),
            "top10_overlap": ("same top 10", ".3f"), "spearman": ("Spearman", ".6f"),
        },
    ),
    "reranker": Form(
        tags="reranker, onnx",
        pipeline_tag="text-ranking",
        summary=(
            "`{source}` as ONNX: `input_ids` and `attention_mask` of filled templates in, `logits` out, "
            "logit(yes) − logit(no)\nof each pair, from two rows of the head."
        ),
        measured="Scores against PyTorch in float32",
        texts="pairs",
        columns={
            "spearman": ("rank correlation", ".6f"), "score_delta": ("largest difference of a score", ".6f"),
            "log_odds_delta": ("of the log-odds", ".4f"), "log_odds_std": ("spread of the log-odds", ".2f"),
        },
    ),
}  # fmt: skip


def card(manifest: Manifest) -> str:
    """The text of the folder's README.md."""
    form, first = FORMS[manifest.kind], next(iter(manifest.quants))
    front = ["library_name: onnx", f"pipeline_tag: {form.pipeline_tag}", f"tags: [{form.tags}]"]
    if manifest.license:
        front.insert(0, f"license: {manifest.license}")
    if "/" in (manifest.source["id"] or ""):
        front.append(f"base_model: {manifest.source['id']}")
    counts = {entry.fidelity["probes"] for entry in manifest.quants.values() if entry.fidelity}
    head = HEAD.format(
        front="\n".join(front),
        title=f"{manifest.source['id']} · ONNX",
        summary=form.summary.format(source=manifest.source["id"], dims=manifest.dims),
        version=manifest.made_with["q3-onnx"],
        measured=(MEASURED if counts else UNMEASURED).format(
            measured=form.measured, probes=" or ".join(map(str, sorted(counts))), texts=form.texts
        ),
        columns=" | ".join([*(heading for heading, _ in form.columns.values()), "floor"]),
        rule="---|" * (len(form.columns) + 1),
    )
    rows = "\n".join(_row(form, name, entry) for name, entry in manifest.quants.items())
    lowered = [name for name, entry in manifest.quants.items() if entry.fidelity and entry.fidelity.get("floor_lowered")]
    note = f"\n\nThe floor was lowered by hand for: {', '.join(lowered)}." if lowered else ""
    if lossy := [name for name, entry in manifest.quants.items() if entry.has_int8_products]:
        note += LOSSY.format(names=", ".join(lossy), entry=PRECISE)
    file = manifest.quants[first].onnx_file
    dtype = next(name for name, quant in QUANTS.items() if quant.onnx_file == file)
    parts = [manifest.kind, *(["token_states"] if "last_hidden_state" in manifest.quants[first].outputs else [])]
    usage = "".join(files("q3_export").joinpath("data", f"card_{part}.md").read_text("utf-8") for part in parts)
    prompts = _prompts(manifest)
    return head + rows + note + "\n" + usage.format(quant=first, file=file, dtype=dtype, prompts=prompts, dims=manifest.dims)


def _prompts(manifest: Manifest) -> str:
    """What is put in front of texts, in a sentence."""
    query, document = (manifest.prompts.get(name, "").replace("\n", "\\n") for name in ("query", "document"))
    if not query and not document:
        return "Nothing is put in front of queries or documents."
    front = [f"`{text}`" if text else "nothing" for text in (query, document)]
    note = "; there is no space after `Query:`" if query.endswith("Query:") else ""
    return f"In front of queries goes {front[0]}, in front of documents {front[1]}{note}."


def _row(form: Form, name: str, entry: QuantEntry) -> str:
    size = f"{entry.total_bytes / 1e6:.1f}"
    if entry.fidelity is None:
        return f"| {name} | {entry.onnx_file} | {size} | not measured |" + " |" * len(form.columns)
    shown = " | ".join(f"{entry.fidelity[key]:{form_}}" for key, (_, form_) in form.columns.items())
    floor = ", ".join(f"{key} {limit:g}" for key, limit in entry.fidelity["floor"].items())
    return f"| {name} | {entry.onnx_file} | {size} | {shown} | {floor} |"
