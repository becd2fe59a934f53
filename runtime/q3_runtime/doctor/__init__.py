"""Any ONNX folder of an embedding model or a reranker, ours or a stranger's: what is wrong with it, and what can load it."""

from q3_runtime.doctor.diagnosis import Diagnosis, diagnose
from q3_runtime.doctor.findings import Finding
from q3_runtime.doctor.loaders import Verdict

__all__ = ["Diagnosis", "Finding", "Verdict", "diagnose"]
