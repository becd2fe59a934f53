"""How each quant is made: one row, read by :mod:`q3_export.binding`."""

from dataclasses import dataclass, field, replace

from q3_export.quantize.formats import BLOCKS4, BLOCKS8, FLOAT, INT8, TABLE8, Format
from q3_runtime.errors import UsageError
from q3_runtime.manifest import INT8_PRODUCTS
from q3_runtime.quants import QUANTS, Quant

WIDER = {0: 0.0, 8: 0.0, 4: 0.14}
"""Bits of the linears → the part of them that may become wider; docs/sizes.json has .1 to .14 with 4 bits, none with 8."""


@dataclass(frozen=True)
class Recipe:
    """One way to store the weights."""

    quant: Quant
    activations: str
    """dtype of what flows between operators, and of weights that are stored as floats."""
    linears: Format = FLOAT
    wider: Format = FLOAT
    """For linears that cost too much in ``linears``."""
    table: Format = FLOAT
    """Of the token embeddings."""
    target: dict[str, float] = field(default_factory=dict)
    """Cosines that widening aims at; empty: the floor."""
    min_onnxruntime: str = "1.28"
    """Oldest onnxruntime that runs it well: tiled causal attention in float32 came with 1.28."""
    attention: str = "by_length"
    """Of :data:`q3_export.passes.ATTENTIONS`: onnxruntime before 1.28 cannot load two forms, and float16 gains nothing."""

    @property
    def forms(self) -> tuple[str, str]:
        """Names of the two formats."""
        return self.linears.name, self.wider.name

    def size(self, table: int, others: int, wider: float = 0.0) -> int:
        """Bytes of a model of so many weights in its token embeddings and elsewhere, of which the part ``wider`` is wider."""
        floats = {"float32": 4.0, "float16": 2.0}[self.activations]
        linears = (1 - wider) * self.linears.bytes_per_weight(floats) + wider * self.wider.bytes_per_weight(floats)
        return round(table * self.table.bytes_per_weight(floats) + others * linears)

    def room(self, table: int, others: int) -> int:
        """Bytes to have ready for it: as many linears may become wider as have been seen to."""
        return self.size(table, others, WIDER[self.linears.bits])

    def memory(self, table: int, others: int) -> int:
        """Bytes to have ready for its weights where a CPU runs it, on which onnxruntime multiplies float16 in float32."""
        doubled = others * 2 if self.activations == "float16" and not self.linears.bits else 0
        return self.room(table, others) + doubled

    def describe(self) -> dict[str, object]:
        """What goes into the manifest."""
        if not self.linears.bits:
            return {"weights": self.activations, "activations": self.activations}
        return {
            "linears": self.linears.describe(),
            "kept_wider": self.wider.describe(),
            "token_embeddings": self.table.describe(),
            "activations": f"{self.activations}, rounded to 8 bits by token and block" if self.linears.block else INT8_PRODUCTS,
        }


RECIPES = {
    recipe.quant.name: recipe
    for recipe in (
        Recipe(QUANTS["fp32"], "float32"),
        Recipe(QUANTS["fp16"], "float16", attention="uniform"),
        # onnxruntime 1.28 and 1.29 end the process where q3_runtime.saturation has 8-bit products computed precisely.
        Recipe(
            QUANTS["int8"],
            "float32",
            INT8,
            wider=BLOCKS8,
            table=TABLE8,
            target={"mean": 0.995, "min": 0.99},
            min_onnxruntime="1.30",
        ),
        Recipe(QUANTS["q8"], "float32", BLOCKS8, wider=FLOAT, table=TABLE8),
        Recipe(QUANTS["q4"], "float32", BLOCKS4, wider=BLOCKS8, table=TABLE8),
        Recipe(QUANTS["q4f16"], "float16", BLOCKS4, wider=BLOCKS8, table=TABLE8, attention="uniform"),
    )
}

DEFAULT_QUANT = "int8"
TEI = {
    name: replace(
        RECIPES[name],
        quant=replace(QUANTS[name], suffix=""),
        wider=FLOAT,
        table=FLOAT,
        min_onnxruntime="1.22",
        attention="uniform",
    )
    for name in ("int8", "q4", "fp32")
}
"""What text-embeddings-inference runs: TEI 1.9.3 has onnxruntime 1.22; blocks of 8 bits came with 1.23."""
LAYOUTS = ("onnx", "tei")
"""``onnx``: a graph for each quant, by its suffix; ``tei``: one quant as onnx/model.onnx, which is all that TEI looks for."""


def chosen(quant: str | list[str] | tuple[str, ...]) -> list[Recipe]:
    """The rows named by a comma list or a sequence.

    Raises:
        UsageError: an unknown or doubled name.
    """
    names = [name.strip() for name in quant.split(",")] if isinstance(quant, str) else list(quant)
    for name in names:
        if name not in RECIPES:
            known = "is not built by this version" if name in QUANTS else "is unknown"
            raise UsageError(
                f"quant {name!r} {known}, expected one of {', '.join(RECIPES)}; type: --quant {next(iter(RECIPES))}"
            )
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"quants {', '.join(names) or '(none)'}: each must stand once; type: --quant {','.join(dict.fromkeys(names))}"
        )
    return [RECIPES[name] for name in names]


def laid_out(recipes: list[Recipe], layout: str) -> list[Recipe]:
    """The recipes with the file names of a layout.

    Raises:
        UsageError: an unknown layout; for TEI several quants, or one that it cannot run.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout {layout!r} is unknown, expected one of {', '.join(LAYOUTS)}; leave it out")
    if layout == "onnx":
        return recipes
    names = ", ".join(recipe.quant.name for recipe in recipes)
    if names not in TEI:
        raise UsageError(f"quant {names} with layout tei, expected one of {', '.join(TEI)}; type: --quant {next(iter(TEI))}")
    return [TEI[names]]
