"""OpenVINO: optimum-intel's graph in bfloat16, with int8 weights, and with int8 weights and activations, by NNCF's defaults."""

from collections.abc import Callable
from pathlib import Path

from padding import padded, pooled


def make(checkpoint: Path, variant: str, folder: Path, calibration: list[list[int]]) -> None:
    """The int8 forms are made of the first."""
    import openvino

    base = folder.parent / f"{folder.name.split('.')[0]}.bf16"
    if variant == "bf16":
        from optimum.exporters.openvino import main_export

        main_export(str(checkpoint), str(folder), task="feature-extraction", library_name="transformers")
        return
    import nncf

    model = openvino.Core().read_model(base / "openvino_model.xml")
    if variant == "int8_weights":
        model = nncf.compress_weights(model)
    else:
        feeds = nncf.Dataset([dict(zip(("input_ids", "attention_mask"), padded([row]), strict=True)) for row in calibration])
        model = nncf.quantize(model, feeds, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration))
    openvino.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)


def load(checkpoint: Path, variant: str, folder: Path, threads: int) -> Callable:  # noqa: ARG001
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if variant == "bf16":
        options["INFERENCE_PRECISION_HINT"] = "bf16"
    model = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", options)

    def run(rows):
        ids, mask = padded(rows)
        return pooled(model({"input_ids": ids, "attention_mask": mask})["last_hidden_state"], mask)

    return run
