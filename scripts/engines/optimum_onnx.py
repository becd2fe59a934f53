"""optimum-onnx: its graph as it is, through quantize_dynamic, and with its linears as 8-bit blocks."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from padding import padded, pooled

sys.path.insert(0, str(Path(__file__).parents[2]))
ACCURACY_LEVEL = {"blocks": 4, "blocks_fp32": 0}
"""4: activations become 8-bit by block; 0: they stay fp32, as in the file that fastembed ships."""


def make(checkpoint: Path, variant: str, folder: Path, calibration: list[list[int]]) -> None:  # noqa: ARG001
    """The graph of each variant in a folder of its own; the others are made of the first."""
    base = folder.parent / f"{folder.name.split('.')[0]}.fp32"
    if variant == "fp32":
        from optimum.exporters.onnx import main_export

        main_export(str(checkpoint), str(folder), task="feature-extraction", library_name="transformers", do_validation=False)
        return
    from tests.support.onnxruntime_quantizers import blocks, dynamic

    logging.disable(logging.WARNING)  # they speak of every node
    quantize = dynamic if variant == "dynamic" else blocks(8, ACCURACY_LEVEL[variant])
    quantize(base / "model.onnx", folder / "model.onnx")


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
