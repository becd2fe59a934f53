"""What the graph refers to: looked at before onnxruntime opens it, which a graph that reaches out of its folder never is."""

from collections.abc import Iterator

from q3_runtime.doctor.findings import Finding, problem
from q3_runtime.doctor.patient import Patient
from q3_runtime.graph_scan import POINTS_TO_A_FILE, GraphError, scan
from q3_runtime.manifest import is_plain_path

ANOTHER = "do not load it, and get another one"


def references(patient: Patient) -> Iterator[Finding]:
    """What no graph of an embedding model needs, and what would let it read other files of this machine."""
    try:
        found = scan(patient.graph)
    except FileNotFoundError:
        yield problem("graph", f"{patient.graph_name} is missing, q3.json lists it", "export or download it again")
        return
    except GraphError as error:
        yield problem("graph", f"{patient.graph_name} is none: {error}", "export or download it again")
        return
    outside = [tensor for tensor in found.external if not is_plain_path(tensor.location)]
    if outside:
        tensor = outside[0]
        text = f"tensor {tensor.tensor!r} lies in {tensor.location!r}, expected a file beside {patient.graph_name}"
        yield problem("references", text, ANOTHER)
    if any(kind == POINTS_TO_A_FILE for _, kind in found.operators):
        yield problem("references", f"an operator {POINTS_TO_A_FILE}, which names a file to run", ANOTHER)
