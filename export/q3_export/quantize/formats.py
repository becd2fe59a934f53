"""How weights can be stored: the rows that recipes are made of. :mod:`q3_export.quantize.rounding` does it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One way to store a linear. ``bits`` 0 is a float; ``block`` 0 has one scale for each output channel."""

    name: str
    bits: int = 0
    block: int = 0

    def bytes_per_weight(self, float_bytes: float) -> float:
        """With its share of a scale, whose floats, and weights that stay floats, have ``float_bytes``."""
        if not self.bits:
            return float_bytes
        return self.bits / 8 + (float_bytes / self.block if self.block else 0)

    def describe(self) -> dict[str, object]:
        """What goes into the manifest."""
        if not self.bits:
            return {"weights": "float"}
        return {"weights": f"int{self.bits}", "scale": f"block of {self.block}" if self.block else "output channel"}


FLOAT = Format("float")
INT8 = Format("int8", bits=8)
BLOCKS8 = Format("blocks8", bits=8, block=32)
BLOCKS4 = Format("blocks4", bits=4, block=32)
TABLE8 = Format("table8", bits=8, block=128)
FORMATS = {row.name: row for row in (FLOAT, INT8, BLOCKS8, BLOCKS4, TABLE8)}
