"""What the graph takes and gives."""

from collections.abc import Iterator

from q3_runtime.doctor.findings import Finding, note, ok, problem
from q3_runtime.doctor.graph import POOLED, SCORES, Graph
from q3_runtime.doctor.patient import Patient

EXPORT = "type: q3-export --model … to have a graph without them"


def inputs(patient: Patient, graph: Graph) -> Iterator[Finding]:
    """Token ids and mask are what everybody feeds."""
    del patient
    if graph.caches:
        text = f"{len(graph.caches)} inputs of a KV cache, expected none: an embedding has no next token, few tools feed them"
        yield problem("inputs", text, EXPORT)
    if "position_ids" in graph.inputs:
        text = "position_ids, which fastembed and plain code do not feed; and whoever counts padding shifts every text"
        yield problem("inputs", text, EXPORT)
    if graph.unknown:
        yield problem("inputs", f"{', '.join(graph.unknown)}: nobody knows what to feed", EXPORT)
    missing = [name for name in ("input_ids", "attention_mask") if name not in graph.inputs]
    if missing:
        yield problem("inputs", f"no {' and no '.join(missing)}; it has {', '.join(graph.inputs)}", EXPORT)
    if not (graph.caches or missing or graph.unknown or "position_ids" in graph.inputs):
        yield ok("inputs", "; ".join(map(str, graph.inputs.values())))


def outputs(patient: Patient, graph: Graph) -> Iterator[Finding]:
    """Vectors or scores, in float32."""
    shown = "; ".join(str(item) for item in graph.outputs.values() if not item.name.startswith("present"))
    wanted = [SCORES] if patient.kind == "reranker" else [POOLED, graph.states]
    found = [graph.outputs[name] for name in wanted if name in graph.outputs]
    if not found:
        names = SCORES if patient.kind == "reranker" else f"{POOLED} or last_hidden_state"
        yield problem("outputs", f"{shown}; expected {names}", EXPORT)
        return
    ranks = {POOLED: 2, SCORES: 2}
    if patient.kind == "reranker" and (len(found[0].shape) != 2 or found[0].shape[1] != 1):
        yield problem("outputs", f"{found[0]}, expected [batch, 1], one score for each pair", EXPORT)
    elif odd := [item for item in found if len(item.shape) != ranks.get(item.name, 3)]:
        yield problem("shape of the output", f"{odd[0]}, expected {ranks.get(odd[0].name, 3)} dimensions", EXPORT)
    elif wrong := [item for item in found if item.type != "tensor(float)"]:
        yield problem("outputs", f"{wrong[0]}, expected float32: TEI takes nothing else", EXPORT)
    else:
        yield ok("outputs", shown)
    if patient.kind == "embedding" and POOLED not in graph.outputs:
        yield note("outputs", f"no {POOLED}: each tool pools by itself, and has to be told how")


CHECKS = (inputs, outputs)
