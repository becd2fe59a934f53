"""The known product that tells CPUs which lose sums of 8-bit products."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tests.conftest import ROOT

from q3_runtime.saturation import MODEL, PRECISE, SIZE, precise_entry

EMULATOR = "qemu-x86_64"


def test_the_model_in_the_code_is_the_product_it_says_it_is() -> None:
    numbers = [
        helper.make_tensor("weight", TensorProto.INT8, [SIZE, SIZE], b"\x7f" * SIZE * SIZE, raw=True),
        helper.make_tensor("scale", TensorProto.FLOAT, [1], np.float32([1]).tobytes(), raw=True),
        helper.make_tensor("zero", TensorProto.UINT8, [], b"\0", raw=True),
    ]
    node = helper.make_node("MatMulIntegerToFloat", ["a", "weight", "scale", "scale", "zero"], ["y"], domain="com.microsoft")
    rows = helper.make_tensor_value_info("a", TensorProto.UINT8, [None, SIZE])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [rows], [result], numbers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    assert helper.make_model(graph, opset_imports=opsets, ir_version=10) == onnx.load_from_string(MODEL)


def test_this_cpu_gets_the_product_right_with_the_entries_it_is_given() -> None:
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    wanted = {} if any(flag in flags for flag in ("avx512_vnni", "avx_vnni", "amx_int8")) else {PRECISE: "1"}
    if "avx2" in flags:
        assert precise_entry(onnxruntime) == wanted
    else:
        precise_entry(onnxruntime)


@pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"{EMULATOR} is not installed (Debian: qemu-user)")
def test_a_haswell_is_told_to_multiply_precisely() -> None:
    code = "import onnxruntime; from q3_runtime.saturation import precise_entry; print(precise_entry(onnxruntime))"
    command = [EMULATOR, "-cpu", "Haswell", sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
    )
    assert done.stdout.strip() == str({PRECISE: "1"})


def test_a_folder_tells_what_to_do_with_other_tools_where_it_holds_such_products(folder: Path, mini_folder: Path) -> None:
    entry = f'add_session_config_entry("{PRECISE}", "1")'
    assert entry in (mini_folder / "README.md").read_text("utf-8")
    assert entry not in (folder / "README.md").read_text("utf-8")
