"""Small constants of a graph."""

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape


def integers(model: ir.Model, name: str, *numbers: int) -> ir.Value:
    """An int64 initializer of shape [n]; the one of that name where there is one already."""
    return tensor(model, name, ir.tensor(np.asarray(numbers, dtype=np.int64)))


def scalar(model: ir.Model, name: str, number: float) -> ir.Value:
    """An initializer without dimensions: int64 for an int, float32 for a float."""
    return tensor(model, name, ir.tensor(np.asarray(number, dtype=np.int64 if isinstance(number, int) else np.float32)))


def tensor(model: ir.Model, name: str, value: ir.TensorProtocol) -> ir.Value:
    """An initializer of any type; the one of that name where there is one already."""
    known = model.graph.initializers
    return known[name] if name in known else Tape(model.graph).initializer(value, name=name)
