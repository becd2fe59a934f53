"""optimum-onnx: its graph as it is, through quantize_dynamic, and with its linears as 8-bit blocks."""

import logging
from collections.abc import Callable
from pathlib import Path

from padding import padded, pooled

BLOCK = 32
ACCURACY_LEVEL = {"blocks": 4, "blocks_fp32": 0}
"""4: activations become 8-bit by block; 0: they stay fp32, as in the file that fastembed ships."""


def make(checkpoint: Path, variant: str, folder: Path, calibration: list[list[int]]) -> None:  # noqa: ARG001
    """The graph of each variant in a folder of its own; the others are made of the first."""
    base = folder.parent / f"{folder.name.split('.')[0]}.fp32"
    if variant == "fp32":
        from optimum.exporters.onnx import main_export

        main_export(str(checkpoint), str(folder), task="feature-extraction", library_name="transformers", do_validation=False)
        return
    logging.disable(logging.WARNING)  # they speak of every node
    source, target = base / "model.onnx", folder / "model.onnx"
    if variant == "dynamic":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            source, target, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8, use_external_data_format=True
        )
        return
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer

    config = matmul_nbits_quantizer.DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=True, accuracy_level=ACCURACY_LEVEL[variant], bits=8, op_types_to_quantize=("MatMul",)
    )
    quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), use_external_data_format=True)


def load(checkpoint: Path, variant: str, folder: Path, threads: int) -> Callable:  # noqa: ARG001
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}

    def run(rows):
        ids, mask = padded(rows)
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        return pooled(session.run(["last_hidden_state"], {name: feeds[name] for name in wanted})[0], mask)

    return run
