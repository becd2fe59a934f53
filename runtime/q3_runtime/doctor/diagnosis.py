"""Folder → everything the doctor can say of it."""

from dataclasses import dataclass
from os import PathLike
from typing import Any

from q3_runtime.doctor import file_checks, graph_checks
from q3_runtime.doctor.findings import Finding, problem
from q3_runtime.doctor.graph import Graph
from q3_runtime.doctor.loaders import Verdict, verdicts
from q3_runtime.doctor.measurements import measure, subject
from q3_runtime.doctor.patient import read_patient
from q3_runtime.errors import ProviderError
from q3_runtime.manifest import as_folder


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
        folder: ours or a stranger's; the graph lies in it or in its ``onnx/``.
        quant: which graph, by a name of :data:`q3_runtime.quants.QUANTS`; None: the first there is.

    Raises:
        ModelError: no folder, or no graph in it.
        UsageError: no graph of that quant.
    """
    patient = read_patient(as_folder(folder), quant)
    findings = [finding for check in file_checks.CHECKS for finding in check(patient)]
    loaders: list[Verdict] = []
    try:
        graph = Graph(patient.graph)
    except ProviderError as error:
        findings.append(problem("graph", str(error), "export or download it again"))
    else:
        findings += [finding for check in graph_checks.CHECKS for finding in check(patient, graph)]
        measured = subject(patient, graph)
        findings += measure(measured) if measured else []
        loaders = verdicts(patient, graph)
    return Diagnosis(str(folder), patient.graph_name, patient.kind, findings, loaders)
