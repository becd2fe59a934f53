"""A checkpoint's tensors in memory, to be changed and written back to the same files under the same names."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

PREFIX = "model."


class StoredWeights:
    """Tensors of one or several shards, in the dtype they are stored in, by their names without ``model.``.

    Args:
        folder: of the checkpoint; every ``*.safetensors`` in it is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, torch.Tensor] = {}
        self._places: dict[str, tuple[str, str]] = {}  # name → file, name in it
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for stored in file.keys():  # noqa: SIM118  # no mapping
                    name = stored.removeprefix(PREFIX)
                    self.tensors[name] = file.get_tensor(stored).clone()  # it is mapped, and the file will be written
                    self._places[name] = path.name, stored

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def named(self, *suffixes: str) -> list[str]:
        """Names that end in one of these, layer by layer."""
        return [name for name in self.tensors if name.endswith(suffixes)]

    def save(self, folder: Path | None = None) -> None:
        """Write all shards, into another folder if one is given."""
        for file in {file for file, _ in self._places.values()}:
            content = {stored: self.tensors[name] for name, (place, stored) in self._places.items() if place == file}
            save_file(content, (folder or self.folder) / file, metadata={"format": "pt"})
