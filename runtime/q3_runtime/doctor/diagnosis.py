"""Folder → everything the doctor can say of it."""

from dataclasses import dataclass
from os import PathLike
from typing import Any

from q3_runtime.doctor import file_checks, graph_checks
from q3_runtime.doctor.findings import Finding, problem
from q3_runtime.doctor.graph import POOLED, SCORES, Graph
from q3_runtime.doctor.loaders import Verdict, verdicts
from q3_runtime.doctor.measurements import measure
from q3_runtime.doctor.patient import Patient, read_patient
from q3_runtime.doctor.references import references
from q3_runtime.errors import ProviderError
from q3_runtime.model_folder import find_folder
from q3_runtime.session import available_providers, choose


@dataclass(frozen=True)
class Diagnosis:
    """The examined graph, what was found, and who can load it; ``loaders`` is empty where onnxruntime cannot."""

    folder: str
    graph: str
    kind: str
    findings: list[Finding]
    loaders: list[Verdict]

    @property
    def problems(self) -> list[Finding]:
        """What is wrong."""
        return [finding for finding in self.findings if finding.level == "problem"]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "folder": self.folder, "graph": self.graph, "kind": self.kind,
            "findings": [vars(finding) for finding in self.findings],
            "loaders": {tool: {"loads": not obstacles, "obstacles": obstacles} for tool, obstacles in self.loaders},
        }  # fmt: skip


def diagnose(folder: str | PathLike[str], quant: str | None = None) -> Diagnosis:
    """Examine a folder with an ONNX graph; the graph is loaded on the CPU and run on three short texts.

    Args:
        folder: ours or a stranger's; the graph lies in it or in its ``onnx/``. Or ORG/NAME of ours on the hub.
        quant: which graph, by a name of :data:`q3_runtime.quants.QUANTS`; None: the first there is.

    Raises:
        ModelError: no folder, or no graph in it.
        UsageError: no graph of that quant.
        ProviderError: onnxruntime is not installed.
    """
    available_providers()
    there = find_folder(folder, lambda manifest: choose(manifest.quants, quant, "cpu")[:1])
    patient = read_patient(there, quant)
    graph, failure = _loaded(patient)
    if graph and patient.manifest is None and SCORES in graph.outputs and not (graph.states or POOLED in graph.outputs):
        patient.kind = "reranker"
    findings = [finding for check in file_checks.CHECKS for finding in check(patient)] + failure
    if graph is None:
        return Diagnosis(str(folder), patient.graph_name, patient.kind, findings, [])
    findings += [finding for check in graph_checks.CHECKS for finding in check(patient, graph)]
    findings += measure(patient, graph)
    loaders = verdicts(patient, graph, [finding for finding in findings if finding.level == "problem"])
    return Diagnosis(str(folder), patient.graph_name, patient.kind, findings, loaders)


def _loaded(patient: Patient) -> tuple[Graph | None, list[Finding]]:
    """The graph in a session, or what stands in the way."""
    if found := list(references(patient)):
        return None, found
    try:
        return Graph(patient.graph), []
    except ProviderError as error:
        remedy = "export or download it again"
        if patient.graph.is_symlink():
            remedy = "its files are links, as in the hub's cache, which onnxruntime does not follow: hf download --local-dir"
        return None, [problem("graph", str(error), remedy)]
