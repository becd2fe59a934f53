"""OpenVINO: optimum-intel's graph in bfloat16, with int8 weights, and with int8 weights and activations, as NNCF makes them."""

from collections.abc import Callable
from pathlib import Path

from padding import padded, pooled

PRECISION = {"bf16": "bf16", "int8_weights_f32": "f32"}
"""What is asked for by name; otherwise OpenVINO takes bfloat16 where it finds it, also where a masked CPU has none worth it."""
WIDE = [r".*layers\.27\.mlp\.(up|gate)_proj/.*MatMul"]
"""What optimum-intel leaves as it is when it quantizes Qwen/Qwen3-Embedding-0.6B (_DEFAULT_IGNORED_SCOPE_CONFIGS)."""


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
    if variant.startswith("int8_weights"):
        model = nncf.compress_weights(model)
    else:
        feeds = nncf.Dataset([dict(zip(("input_ids", "attention_mask"), padded([row]), strict=True)) for row in calibration])
        model = nncf.quantize(
            model,
            feeds,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(patterns=WIDE),
        )
    openvino.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)


def load(checkpoint: Path, variant: str, folder: Path, threads: int) -> Callable:  # noqa: ARG001
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if variant in PRECISION:
        options["INFERENCE_PRECISION_HINT"] = PRECISION[variant]
    model = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", options)

    def run(rows):
        ids, mask = padded(rows)
        return pooled(model({"input_ids": ids, "attention_mask": mask})["last_hidden_state"], mask)

    return run
