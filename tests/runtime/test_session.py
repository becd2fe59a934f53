"""Which quant, provider and number of threads is taken, and what is refused."""

import ctypes
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tests.support.signing import sign, with_graph

from q3_export import export_model
from q3_runtime import Embedder, session
from q3_runtime.errors import ProviderError, UsageError
from q3_runtime.manifest import Manifest
from q3_runtime.processors import available_threads
from q3_runtime.session import MAX_THREADS, available_providers, choose, cuda_loads, load_graph, open_session

CPU, CUDA, AZURE = "CPUExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider"
ALL = ("fp32", "fp16", "int8", "q8", "q4", "q4f16")


@pytest.fixture(scope="module")
def half(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint in a quant that goes to CUDA by itself."""
    return export_model(checkpoint, quant="fp16", out=tmp_path_factory.mktemp("exports") / "half-onnx", no_verify=True)


@pytest.fixture
def named_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """onnxruntime's build for CUDA, on a machine where nothing of CUDA is."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    cuda_loads.cache_clear()
    yield monkeypatch
    cuda_loads.cache_clear()


def driver(error: int = 0, gpus: int = 0) -> SimpleNamespace:
    """NVIDIA's, which starts with this error and finds so many GPUs."""

    def count(found: Any) -> int:
        found._obj.value = gpus
        return 0

    return SimpleNamespace(cuInit=lambda _: error, cuDeviceGetCount=count)


@pytest.fixture
def cuda(named_cuda: pytest.MonkeyPatch) -> None:
    """The same with a GPU."""

    class Session:
        def __init__(self, *_: object, providers: list[str], **__: object) -> None:
            self.get_providers = lambda: [*providers, CPU]

    named_cuda.setattr(ctypes, "CDLL", lambda _: driver(gpus=1))
    named_cuda.setattr(onnxruntime, "InferenceSession", Session)


azure = pytest.mark.skipif(AZURE not in available_providers(), reason="this onnxruntime has no provider that takes nothing")
without_cuda = pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


# Quants


@pytest.mark.parametrize(
    ("available", "taken"),
    [
        (ALL, "int8"),
        (("q8", "q4", "fp32", "fp16", "q4f16"), "q8"),
        (("q4", "fp32", "fp16", "q4f16"), "q4"),
        (("fp32", "fp16", "q4f16"), "fp32"),
        (("fp16", "q4f16"), "fp16"),
        (("q4f16",), "q4f16"),
        (("fp32",), "fp32"),
    ],
)
def test_on_a_cpu_the_first_present_of_the_order_is_taken(available, taken):
    for order in (available, available[::-1]):
        assert choose(order, None, "cpu") == (taken, CPU)
        assert choose(order, None, CPU) == (taken, CPU)


@without_cuda
@pytest.mark.parametrize("quant", ALL)
def test_auto_without_cuda_is_the_cpu(quant):
    assert choose(ALL, None, "auto") == ("int8", CPU)
    assert choose(ALL, quant, "auto") == (quant, CPU)


@pytest.mark.parametrize(
    ("available", "quant", "provider", "taken"),
    [
        (ALL, None, "auto", ("fp16", CUDA)),
        (("fp32", "int8", "q4f16"), None, "auto", ("q4f16", CUDA)),
        (("fp32", "int8"), None, "auto", ("int8", CPU)),
        (("int8", "q8", "q4"), None, "auto", ("int8", CPU)),
        (ALL, "fp32", "auto", ("fp32", CPU)),
        (ALL, "int8", "auto", ("int8", CPU)),
        (ALL, None, "cuda", ("fp16", CUDA)),
        (ALL, "q4f16", "cuda", ("q4f16", CUDA)),
        (ALL, None, "cpu", ("int8", CPU)),
        (ALL, "fp16", "cpu", ("fp16", CPU)),
    ],
)
def test_where_cuda_loads_the_quants_of_cuda_go_there(available, quant, provider, taken, cuda):
    assert choose(available, quant, provider) == taken


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_where_onnxruntime_names_cuda_and_cannot_load_it_auto_is_the_cpu(half, named_cuda, capfd):
    assert choose(ALL, None, "auto") == ("int8", CPU)
    assert choose(ALL, "fp16", "auto") == ("fp16", CPU)
    assert choose(ALL, None, "cuda") == ("fp16", CUDA)
    assert Embedder(half).provider == CPU
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("available", "quant"), [(ALL, "int8"), (ALL, "fp32"), (("int8", "q4"), None), (("fp4",), "fp4")])
def test_cuda_for_a_quant_that_it_does_not_run_whole_is_refused_with_those_it_does(available, quant, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(ProviderError, match="fp16, q4f16 do") as caught:
        choose(available, quant, "cuda")
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("quant", ALL)
@pytest.mark.parametrize("provider", ["cpu", CPU])
def test_a_quant_that_is_named_is_taken(quant, provider):
    assert choose(ALL, quant, provider) == (quant, CPU)


@pytest.mark.parametrize("provider", ["auto", "cpu", "cuda", CPU])
@pytest.mark.parametrize("quant", ["int8", "", "FP32", "fp64"])
def test_a_quant_that_is_not_there_is_refused_with_those_that_are(quant, provider):
    with pytest.raises(UsageError, match="is not in this folder, it has fp32, fp16;") as caught:
        choose(("fp32", "fp16"), quant, provider)
    assert caught.value.exit_code == 2
    assert repr(quant) in str(caught.value)


def test_a_quant_of_a_later_version_runs_on_the_cpu():
    assert choose(("fp4",), "fp4", "auto") == ("fp4", CPU)
    assert choose(("fp4",), None, "auto") == ("fp4", CPU)


def test_the_embedder_shows_what_it_took(folder):
    model = Embedder(folder)
    assert model.quant == "fp32"
    assert model.provider == CPU


# Providers


@without_cuda
def test_cuda_on_a_cpu_build_is_refused_with_what_there_is(folder):
    with pytest.raises(ProviderError) as caught:
        Embedder(folder, provider="cuda")
    assert caught.value.exit_code == 7
    assert f"it has {', '.join(onnxruntime.get_available_providers())};" in str(caught.value)
    assert "q3-onnx[gpu]" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("provider", ["gpu", "", "CPU", "NoSuchExecutionProvider"])
def test_an_unknown_provider_is_refused_with_what_there_is(folder, provider):
    with pytest.raises(ProviderError) as caught:
        Embedder(folder, provider=provider)
    assert caught.value.exit_code == 7
    assert repr(provider) in str(caught.value)
    assert f"it has {', '.join(onnxruntime.get_available_providers())};" in str(caught.value)


@without_cuda
def test_auto_falls_back_to_the_cpu(half):
    model = Embedder(half, provider="auto")
    assert model.provider == CPU
    assert np.isfinite(model.encode("text")).all()


@azure
def test_a_provider_that_would_leave_work_to_the_cpu_is_refused_with_that_work(folder):
    with pytest.raises(ProviderError, match=f"whole on {AZURE}: Add, .*, MatMul, .* would run elsewhere") as caught:
        Embedder(folder, provider=AZURE)
    assert caught.value.exit_code == 7
    assert "\n" not in str(caught.value)


@azure
@pytest.mark.parametrize(("operators", "left"), [(("Shape", "Cast"), ""), (("Shape", "Cast", "Neg"), "Neg would run")])
def test_lengths_and_shapes_may_be_left_to_the_cpu(tmp_path, operators, left):
    """onnxruntime computes them there on every provider, on CUDA too; when that was refused, no folder ran on CUDA."""
    names = ["input_ids", *(f"value_{number}" for number in range(len(operators)))]
    settings = {"Cast": {"to": onnx.TensorProto.FLOAT}}
    nodes = [
        onnx.helper.make_node(kind, [before], [after], **settings.get(kind, {}))
        for kind, before, after in zip(operators, names, names[1:], strict=False)
    ]
    given = onnx.helper.make_tensor_value_info(names[0], onnx.TensorProto.INT64, ["B", "T"])
    found = onnx.helper.make_tensor_value_info(names[-1], onnx.TensorProto.FLOAT, [2])
    graph = onnx.helper.make_graph(nodes, "graph", [given], [found])
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), path)
    with pytest.raises(ProviderError, match=left) if left else nullcontext():
        load_graph(path, AZURE)


def test_a_tokenizer_can_be_read_before_onnxruntime_is_done(folder: Path) -> None:
    """It says when it has the graph; that it then lets go of Python's lock is what the time of loading shows."""
    begun, go_on = Event(), Event()

    def wait() -> None:
        begun.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor(1) as worker:
        opened = worker.submit(open_session, folder, Manifest.read(folder).quants["fp32"], CPU, begun=wait)
        assert begun.wait(60)
        assert not opened.done()
        go_on.set()
        assert opened.result().get_providers() == [CPU]


def test_a_session_on_the_cpu_loads_no_cuda_libraries(folder, monkeypatch):
    calls: list[str] = []
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: calls.append("called"))
    open_session(folder, Manifest.read(folder).quants["fp32"], CPU)
    assert calls == []


@pytest.mark.parametrize(
    ("error", "said"), [(0, "finds no GPU"), (100, "finds no GPU"), (803, "fails with CUDA's error 803, .*")]
)
def test_where_there_is_no_gpu_one_line_says_so(folder, monkeypatch, capfd, error, said):
    """onnxruntime says it in several, on standard error."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver(error=error))
    with pytest.raises(ProviderError, match=f"NVIDIA's driver {said}; take --provider cpu") as caught:
        open_session(folder, Manifest.read(folder).quants["fp32"], CUDA)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@without_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cuda_libraries_that_do_not_load_are_in_the_error_and_not_on_standard_output(folder, monkeypatch, capsys):
    """onnxruntime looks for those that pip installed only when asked to, and prints what it cannot load."""
    line = "Failed to load libcublas.so.12: cannot open shared object file"
    monkeypatch.setattr(session, "_gpu_problem", lambda: "")
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print(line))
    with pytest.raises(ProviderError, match=f"{line}; ") as caught:
        open_session(folder, Manifest.read(folder).quants["fp32"], CUDA)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_onnxruntime_says_nothing_of_a_graph_that_it_does_not_load_and_tries_no_other_provider(copy, capsys):
    """By itself it prints that it falls back, on standard output, and does."""
    path = copy / "onnx/model.onnx"
    path.write_bytes(path.read_bytes().replace(b"input_ids", b"input_id\xaa"))
    sign(copy)
    with pytest.raises(ProviderError, match="cannot run"):
        Embedder(copy)
    assert capsys.readouterr() == ("", "")


def renamed(old: str, new: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for names in [node.input for node in model.graph.node] + [node.output for node in model.graph.node]:
            names[:] = [new if name == old else name for name in names]
        for value in (*model.graph.input, *model.graph.output):
            value.name = new if value.name == old else value.name

    return change


def wider(model: onnx.ModelProto) -> None:
    """Its vectors, twice as long."""
    renamed("sentence_embedding", "half")(model)
    model.graph.output.append(onnx.helper.make_tensor_value_info("sentence_embedding", onnx.TensorProto.FLOAT, None))
    del model.graph.output[[value.name for value in model.graph.output].index("half")]
    model.graph.node.append(onnx.helper.make_node("Concat", ["half", "half"], ["sentence_embedding"], axis=-1))


def flat(model: onnx.ModelProto) -> None:
    """Its vectors, one behind the other."""
    wider(model)
    model.graph.node[-1].CopyFrom(onnx.helper.make_node("Flatten", ["half"], ["sentence_embedding"], axis=0))


def without_end(model: onnx.ModelProto) -> None:
    """A node that runs into an error."""
    next(node for node in model.graph.node if node.op_type == "Range").input[1] = "input_ids"


FOREIGN = {
    "another input": (renamed("attention_mask", "mask"), "inputs .*'mask'.*, expected .*'attention_mask'"),
    "another output": (renamed("sentence_embedding", "vector"), "'vector'.*, expected 'sentence_embedding' among them"),
    "longer vectors": (wider, r"self-check: \[128\] numbers, expected \[64\], on CPU"),
    "one vector for all": (flat, r"gave float32 \[1, 192\] for 3 texts, expected a row of numbers for each"),
    "a node that fails": (without_end, "onnxruntime cannot run this graph: .*; try another quant, .*, or export or download"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_graph_that_takes_or_gives_something_else_is_refused(case, copy):
    change, message = FOREIGN[case]
    with_graph(copy, change)
    with pytest.raises(ProviderError, match=message):
        Embedder(copy).encode(["a", "b", "c"])


# Versions


def test_an_onnxruntime_that_is_too_old_is_refused_with_both_versions(copy):
    content = json.loads((copy / "q3.json").read_text("utf-8"))
    content["quants"]["fp32"]["min_onnxruntime"] = "99.0"
    (copy / "q3.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ProviderError) as caught:
        Embedder(copy)
    assert caught.value.exit_code == 7
    assert f"onnxruntime {onnxruntime.__version__} is too old" in str(caught.value)
    assert "expected 99.0 or newer; type: pip install -U onnxruntime" in str(caught.value)


@pytest.mark.parametrize("needed", ["1.9", "1.28", "1.28.3", ".".join(onnxruntime.__version__.split(".")[:2])])
def test_an_onnxruntime_that_is_new_enough_is_taken(copy, needed):
    content = json.loads((copy / "q3.json").read_text("utf-8"))
    content["quants"]["fp32"]["min_onnxruntime"] = needed
    (copy / "q3.json").write_text(json.dumps(content), encoding="utf-8")
    Embedder(copy)


# Threads


@pytest.mark.parametrize("threads", [0, -1, MAX_THREADS + 1, 10**12, True, 2.0, "2"])
def test_a_number_of_threads_that_makes_no_sense_is_refused(folder, threads):
    with pytest.raises(UsageError, match=f"expected a whole number from 1 to {MAX_THREADS}") as caught:
        Embedder(folder, threads=threads)
    assert caught.value.exit_code == 2
    assert repr(threads) in str(caught.value)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_session_has_the_threads_that_were_asked_for(folder, threads):
    entry = Manifest.read(folder).quants["fp32"]
    session = open_session(folder, entry, CPU, threads)
    assert session.get_session_options().intra_op_num_threads == threads


def test_a_session_without_a_number_takes_what_this_process_may_use(folder):
    entry = Manifest.read(folder).quants["fp32"]
    session = open_session(folder, entry, CPU)
    assert session.get_session_options().intra_op_num_threads == available_threads()
    assert 0 <= available_threads() <= (os.cpu_count() or 1)


def test_one_thread_and_the_default_give_the_same_vectors(folder):
    texts = ["a", "The capital of China is Beijing.", "def add(a, b):\n    return a + b", "gravity " * 200]
    one, default = (Embedder(folder, threads=threads).encode(texts) for threads in (1, None))
    np.testing.assert_allclose(one, default, rtol=0, atol=1e-6)
