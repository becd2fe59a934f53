"""Does this CPU lose sums of 8-bit products? AVX2 and AVX-512 without VNNI add pairs of them in 16 bits, which saturate.

onnxruntime then gives vectors that are wrong and look right, unless ``session.x64quantprecision`` makes it compute with
unsigned weights, more slowly. It is not set everywhere because CPUs with VNNI or AMX would pay for it and need it not. So
the question is put to the CPU: one product whose result is known.
"""

from functools import cache
from types import ModuleType

import numpy as np

from q3_runtime.errors import ProviderError

PRECISE = "session.x64quantprecision"
SIZE = 16
# MatMulIntegerToFloat(a uint8 [M, 16], 127 int8 [16, 16]), all scales 1; tests/runtime/test_saturation.py builds it anew.
MODEL = (
    bytes.fromhex(
        "080a3a9e030a470a01610a067765696768740a057363616c650a057363616c650a047a65726f12017922144d61744d756c496e7465676572546f"
        "466c6f61743a0d636f6d2e6d6963726f736f66741201672a910208100810100342067765696768744a8002"
    )
    + b"\x7f" * SIZE * SIZE
    + bytes.fromhex(
        "2a110801100142057363616c654a040000803f2a0b100242047a65726f4a01005a110a0161120c0a0a080212060a000a02081062090a01791204"
        "0a02080142040a00101542110a0d636f6d2e6d6963726f736f66741001"
    )
)


@cache
def precise_entry(ort: ModuleType) -> dict[str, str]:
    """Session entries that an int8 graph needs on this CPU: none, or the one for precise products. ``ort`` is onnxruntime.

    Raises:
        ProviderError: the products are wrong either way.
    """
    for entries in ({}, {PRECISE: "1"}):
        if _product(ort, entries) == 255 * 127 * SIZE:
            return entries
    raise ProviderError(
        "8-bit products are wrong on this CPU, and session.x64quantprecision does not mend them; pass quant='q8' or 'fp32'"
    )


def _product(ort: ModuleType, entries: dict[str, str]) -> float:
    """The product of the largest values, as onnxruntime computes it here."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    session = ort.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
    return float(session.run(None, {"a": np.full((SIZE, SIZE), 255, np.uint8)})[0].max())
