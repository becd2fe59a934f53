"""Provider, quant and threads → an onnxruntime session that runs where it was asked to."""

import ctypes
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from q3_runtime import builds
from q3_runtime.errors import ProviderError, UsageError
from q3_runtime.manifest import QuantEntry
from q3_runtime.processors import available_threads
from q3_runtime.quants import CPU_ORDER, CUDA_ORDER
from q3_runtime.saturation import MODEL, precise_entry
from q3_runtime.whole_numbers import whole

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
PROVIDER_OPTIONS = {PROVIDERS["cuda"]: {"sdpa_kernel": str(1 | 2 | 16)}}
"""Attention by flash, memory-efficient or plain kernels: cuDNN's, which GPUs of compute capability 9 and newer would get, are
planned anew for each shape of a batch."""
NO_DEVICE = 100
"""CUDA's error where the driver is there and a GPU is not."""
MAX_THREADS = 1024
CPU = "--provider cpu (provider='cpu')"
WITH_CUDA = "pip uninstall -y onnxruntime && pip install 'q3-onnx[gpu]'"
"""Beside the other build neither works."""
BOOKKEEPING = {"ArgMax", "Cast", "Concat", "Max", "Min", "Range", "Shape", "Slice", "Squeeze", "Sub", "Unsqueeze"}
"""Names of operators that a graph may leave to the CPU: onnxruntime computes lengths and shapes there, on CUDA too."""
INPUTS = {"input_ids": "tensor(int64)", "attention_mask": "tensor(int64)"}
"""Of every graph of ours, as q3_runtime.batching.pad feeds them."""


def choose(available: Collection[str], quant: str | None, provider: str) -> tuple[str, str]:
    """The quant and the onnxruntime provider to use.

    ``provider="auto"`` takes CUDA where it loads and the quant, given or found, is one that CUDA runs whole.

    Raises:
        UsageError: a quant that the folder does not have.
        ProviderError: a provider that this onnxruntime does not have, or that cannot run the quant.
    """
    if quant is not None and quant not in available:
        raise UsageError(f"quant {quant!r} is not in this folder, it has {', '.join(available)}; pass one of these")
    here = available_providers()
    cuda, cpu = PROVIDERS["cuda"], PROVIDERS["cpu"]
    if provider == "auto":
        on_cuda = _first(CUDA_ORDER, available) if quant is None else (quant if quant in CUDA_ORDER else None)
        if on_cuda and cuda_loads():
            return on_cuda, cuda
        return quant or _first(CPU_ORDER, available) or next(iter(available)), cpu
    name = PROVIDERS.get(provider, provider)
    if name not in here:
        raise ProviderError(
            f"provider {provider!r} is not in this onnxruntime, it has {', '.join(here)}; "
            f"{f'for CUDA type: {WITH_CUDA}' if name == cuda else 'install the build that has it'}; or take {CPU}"
        )
    if name == cuda:
        chosen = quant or _first(CUDA_ORDER, available)
        if chosen is None or chosen not in CUDA_ORDER:
            raise ProviderError(
                f"quant {quant or ', '.join(available)} does not run whole on CUDA, {', '.join(CUDA_ORDER)} do; "
                f"export one of these or take {CPU}"
            )
        return chosen, name
    return quant or _first(CPU_ORDER, available) or next(iter(available)), name


def open_session(
    folder: Path,
    entry: QuantEntry,
    provider: str,
    threads: int | None = None,
    *,
    output: str = "sentence_embedding",
    begun: Callable[[], object] = int,
) -> "onnxruntime.InferenceSession":
    """Load a quant on exactly this provider (an onnxruntime name), to be asked for ``output``.

    ``begun`` is called when Python's lock is about to be let go for most of that time.

    Raises:
        UsageError: a number of threads that makes no sense.
        ProviderError: onnxruntime is too old for the folder, cannot load it, or would run a part of it elsewhere; the graph
            takes or gives something else.
    """
    count = None if threads is None else whole(threads, 1, MAX_THREADS)
    if threads is not None and count is None:
        raise UsageError(f"threads is {threads!r}, expected a whole number from 1 to {MAX_THREADS}, or None")
    ort = builds.load()
    if version(ort.__version__) < version(entry.min_onnxruntime):
        raise ProviderError(
            f"onnxruntime {ort.__version__} is too old for {folder}, expected {entry.min_onnxruntime} or newer; "
            f"type: {builds.newer()}"
        )
    settings = precise_entry(ort) if entry.has_int8_products and provider == PROVIDERS["cpu"] else {}
    path = folder / entry.onnx_file
    session = load_graph(path, provider, count, settings, begun)
    found = {item.name: item.type for item in session.get_inputs()}
    if found != INPUTS:
        raise ProviderError(f"{path}: inputs {found}, expected {INPUTS}; export or download the folder again")
    if output not in (outputs := [item.name for item in session.get_outputs()]):
        raise ProviderError(f"{path}: outputs {outputs}, expected {output!r} among them; export or download the folder again")
    return session


def load_graph(
    path: Path,
    provider: str,
    threads: int | None = None,
    settings: Mapping[str, str] | None = None,
    begun: Callable[[], object] = int,
) -> "onnxruntime.InferenceSession":
    """A session for any graph, with what onnxruntime calls session config entries in ``settings``; ``begun`` as above.

    Raises:
        ProviderError: onnxruntime cannot load it, or would run a part of it elsewhere.
    """
    ort = builds.load()
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_threads() if threads is None else threads
    options.enable_mem_pattern = False  # texts differ too much in length for plans of where things go
    options.log_severity_level = 4  # what fails is raised, and must not be on standard error beside our one line
    recorded = {} if provider == PROVIDERS["cpu"] else {"session.record_ep_graph_assignment_info": "1"}
    for name, value in (recorded | dict(settings or {})).items():
        options.add_session_config_entry(name, value)
    if provider == PROVIDERS["cuda"] and (problem := _gpu_problem()):  # onnxruntime would say so in lines of its own
        raise ProviderError(f"{problem}; take {CPU}")
    unloaded = _preload_cuda(ort) if provider == PROVIDERS["cuda"] else ""
    try:
        # By itself it would say on standard output that it tries the same once more.
        named = [(provider, PROVIDER_OPTIONS.get(provider, {}))]
        session = ort.InferenceSession(
            path, options, providers=named, enable_fallback=False, disabled_optimizers=_none_but(begun)
        )
        for item in (*session.get_inputs(), *session.get_outputs()):
            _ = item.name  # raises where it is not UTF-8
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise ProviderError(
            f"onnxruntime {ort.__version__} cannot run {path} on {provider}: {one_line(error)}; {unloaded}"
            f"try {CPU}, another quant, or {builds.newer()}"
        ) from error
    if provider not in session.get_providers():
        took = ", ".join(session.get_providers())
        raise ProviderError(f"asked for {provider}, onnxruntime took {took}; {unloaded}take {CPU}, or type: {builds.newer()}")
    if recorded and (left := _left_to_others(session, provider)):
        raise ProviderError(
            f"onnxruntime {ort.__version__} cannot run {path} whole on {provider}: {one_line(', '.join(left))} would run "
            f"elsewhere; try {CPU}, another quant, or {builds.newer()}"
        )
    return session


def _none_but(begun: Callable[[], object]) -> Iterator[str]:
    """No optimizers to leave out. onnxruntime reads the names when it has the graph and will soon let go of Python's lock."""
    begun()
    yield from ()


def _left_to_others(session: "onnxruntime.InferenceSession", provider: str) -> list[str]:
    """Operators that another provider would compute, but for BOOKKEEPING.

    Raises:
        ProviderError: onnxruntime is older than 1.24 and does not say.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise ProviderError(
            f"onnxruntime does not say here what would run on {provider}; take {CPU}, or type: {builds.newer()}"
        )
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name != provider]
    return sorted({node.op_type for part in parts for node in part.get_nodes()} - BOOKKEEPING)


@cache
def cuda_loads() -> bool:
    """Whether onnxruntime has it, and it is there: the build for CUDA names it without a driver, a GPU or libraries too.

    The driver is asked first: where there is no GPU, onnxruntime would say so on standard error.
    """
    ort = builds.load()
    if PROVIDERS["cuda"] not in available_providers() or _gpu_problem():
        return False
    options = ort.SessionOptions()
    options.log_severity_level = 4
    _preload_cuda(ort)
    try:
        session = ort.InferenceSession(MODEL, options, providers=[PROVIDERS["cuda"]], enable_fallback=False)
    except Exception:  # of any kind: that it does not load is the answer
        return False
    return PROVIDERS["cuda"] in session.get_providers()


def _gpu_problem() -> str:
    """Why no GPU can be used; empty where one can."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "NVIDIA's driver is not here"
    count = ctypes.c_int()
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error not in (0, NO_DEVICE):
        return f"NVIDIA's driver fails with CUDA's error {error}, see nvidia-smi"
    return "" if count.value else "NVIDIA's driver finds no GPU"


def available_providers() -> list[str]:
    """Names of the providers of the installed onnxruntime."""
    return list(builds.load().get_available_providers())


def _preload_cuda(ort: ModuleType) -> str:
    """Load the CUDA libraries that pip installed, where onnxruntime does not look by itself; what it says could not be."""
    with redirect_stdout(StringIO()) as said:  # it prints, and standard output is for data
        ort.preload_dlls()
    return f"{one_line(said.getvalue())}; " if said.getvalue() else ""


def _first(order: tuple[str, ...], available: Collection[str]) -> str | None:
    return next((name for name in order if name in available), None)


def version(text: str) -> tuple[int, ...]:
    """``"1.28.0.dev3"`` → ``(1, 28)``: what minimum versions are compared by."""
    return tuple(int(part) for part in text.split(".")[:2])


def one_line(text: object) -> str:
    """What others say, short enough for a line of ours."""
    return " ".join(str(text).split())[:300]
