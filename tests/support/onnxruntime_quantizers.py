"""Exported folders whose fp32 graph onnxruntime's own quantizers have changed: what ours are compared with.

Imports nothing of ours by itself, for scripts/engines/optimum_onnx.py quantizes where q3_runtime is not installed.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnxruntime.quantization import QuantType, matmul_nbits_quantizer, quantize_dynamic

if TYPE_CHECKING:
    from tests.support.fake_quantization import Figures

BLOCK = 32
GRAPH = "onnx/model.onnx"
Quantizer = Callable[[Path, Path], object]


def dynamic(source: Path, target: Path) -> None:
    """quantize_dynamic with its defaults: int8 weights, activations with one scale per tensor."""
    quantize_dynamic(
        source, target, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8, use_external_data_format=True
    )


def blocks(bits: int, accuracy_level: int = 4) -> Quantizer:
    """MatMulNBits with symmetric blocks, rounded to nearest; activations in 8 bits by block, or float32 (accuracy_level 0)."""

    def quantize(source: Path, target: Path) -> None:
        config = matmul_nbits_quantizer.DefaultWeightOnlyQuantConfig(
            block_size=BLOCK, is_symmetric=True, accuracy_level=accuracy_level, bits=bits, op_types_to_quantize=("MatMul",)
        )
        quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
        quantizer.process()
        quantizer.model.save_model_to_file(str(target), use_external_data_format=True)

    return quantize


def requantize(folder: Path, target: Path, quantizer: Quantizer) -> Path:
    """A copy of an exported folder that runs another graph in the place of its fp32; its hashes are no longer true."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.onnx*"))
    (target / GRAPH).parent.mkdir(exist_ok=True)
    logging.disable(logging.WARNING)  # both speak of every node, through the root logger
    try:
        quantizer(folder / GRAPH, target / GRAPH)
    finally:
        logging.disable(logging.NOTSET)
    model = onnx.load(target / GRAPH)
    for path in (target / GRAPH).parent.iterdir():
        path.unlink()
    onnx.save(model, target / GRAPH, save_as_external_data=True, location=f"{Path(GRAPH).name}_data")  # as the manifest has it
    return target


def figures(folder: Path) -> "Figures":
    """Cosines of the folder's vectors, as the runtime makes them, to the golden ones."""
    from tests.support.fake_quantization import Figures

    from q3_runtime import Embedder
    from q3_runtime.golden import Golden
    from q3_runtime.vector_fidelity import measure

    with Embedder(folder, quant="fp32", self_check=False, check_hashes=False) as model:
        found = measure(model, Golden.read(folder))[0]
    return Figures(found["mean"], found["min"])
