"""PyTorch computes in float32, whatever the process allows it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch

from q3_runtime.errors import ProviderError
from q3_runtime.session import one_line

LOCK = RLock()
"""The setting is the whole process's."""


@contextmanager
def in_float32() -> Iterator[None]:
    """No products in TF32 on a GPU, nor in bfloat16 on a CPU with AMX; what the process allows is put back.

    Raises:
        ProviderError: the GPU's memory is full.
    """
    backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with LOCK:
        before = [backend.fp32_precision for backend in backends]
        for backend in backends:
            backend.fp32_precision = "ieee"
        try:
            yield
        except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
            if "out of memory" not in str(error):
                raise
            raise ProviderError(
                f"PyTorch needs more memory than the GPU has free ({one_line(error)}); close what else runs there, give "
                "shorter --probes and --calibration, or leave out --device"
            ) from error
        finally:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision
