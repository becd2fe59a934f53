"""onnxruntime's builds, for CPUs, for CUDA and others': distributions of different names with the same files."""

import os
from collections.abc import Iterable
from importlib.metadata import distributions, version
from importlib.util import find_spec
from types import ModuleType

from q3_runtime.errors import ProviderError

CPU_BUILD, CUDA_BUILD = "onnxruntime", "onnxruntime-gpu"


def newer() -> str:
    """What to type for a newer one of the build that is installed; with CUDA's libraries, which pip leaves out unless asked.

    Raises:
        ProviderError: see :func:`load`.
    """
    name = load().package_name
    return f"pip install -U '{CUDA_BUILD}[cuda,cudnn]'" if name == CUDA_BUILD else f"pip install -U {name}"


def with_extras(*extras: str) -> str:
    """What to type for extras of ours, beside the onnxruntime that is there; two builds would break each other."""
    chosen = extras if find_spec(CPU_BUILD) else ("cpu", *extras)
    return f"pip install 'q3-onnx[{','.join(chosen)}]'"


def versions(names: Iterable[str]) -> dict[str, str]:
    """Distributions → their versions; ``onnxruntime`` is whichever build of it is installed.

    Raises:
        ProviderError: see :func:`load`.
    """
    return {name: load().__version__ if name == CPU_BUILD else version(name) for name in names}


def load() -> ModuleType:
    """onnxruntime, if one build of it is installed and only one: two builds overwrite each other's files.

    Raises:
        ProviderError: none is installed, or both are.
    """
    if len(_found()) > 1:
        raise ProviderError(
            f"{' and '.join(_found())} are both installed and break each other; "
            "type: pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'q3-onnx[cpu]'   (or [gpu])"
        )
    # From 1.29 on it reports models and machine to its maker, unless told not to before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        if find_spec(CPU_BUILD):
            raise ProviderError(
                f"onnxruntime cannot be imported: {' '.join(str(error).split())}; on Windows it needs Microsoft's Visual C++ "
                f"runtime; else type: pip install --force-reinstall --no-deps {' '.join(_found()) or CPU_BUILD}"
            ) from error
        raise ProviderError("onnxruntime is not installed; type: pip install 'q3-onnx[cpu]'   (or [gpu])") from error
    module: ModuleType = onnxruntime
    return module


def _found() -> list[str]:
    return [name for name in (CPU_BUILD, CUDA_BUILD) if any(distributions(name=name))]
