"""A folder against PyTorch, computed now: ``q3-export verify``."""

from pathlib import Path
from typing import Any

import numpy as np

from q3_export.checkpoint import Checkpoint
from q3_export.probes import make_golden
from q3_export.verification import provider_of
from q3_runtime.errors import IntegrityError, ModelError
from q3_runtime.fidelity import quants_of, verify_folder
from q3_runtime.golden import Golden
from q3_runtime.integrity import check_files
from q3_runtime.manifest import Manifest

STORED_DELTA = {"embedding": 3e-5, "reranker": 1e-3}
"""Kind → how far PyTorch's values of today may be from those stored in the folder, components of unit vectors or log-odds;
versions and machines differ in rounding."""


def compare(
    folder: Path, checkpoint: Checkpoint, quant: str | None = None, *, device: str = "cpu", progress: bool = False
) -> dict[str, dict[str, Any]]:
    """Figures of each quant against freshly computed vectors of the folder's own probe texts.

    Raises:
        ModelError: the folder was made from another checkpoint.
        IntegrityError: a file is not as exported, or the stored vectors are not PyTorch's.
    """
    manifest = Manifest.read(folder)
    source = checkpoint.sha256(progress=progress)
    if source != manifest.source["sha256"]:
        raise ModelError(
            f"{folder} was made from another checkpoint (sha256 {str(manifest.source['sha256'])[:12]}…), "
            f"{checkpoint.folder} has {source[:12]}…; give the one it was made from"
        )
    check_files(folder, manifest.files, remember=False)
    stored = Golden.read(folder, manifest.kind)
    fresh = make_golden(checkpoint, stored.probes, device=device, progress=progress)
    furthest = float(np.abs(stored.vectors - fresh.vectors).max())
    if not furthest <= STORED_DELTA[manifest.kind]:
        raise IntegrityError(
            f"{folder}: what is stored is up to {furthest:.2e} from PyTorch's, expected {STORED_DELTA[manifest.kind]:g}; "
            "export it again"
        )
    found: dict[str, dict[str, Any]] = {}
    for name in quants_of(manifest, quant):
        found |= verify_folder(folder, quant=name, provider=provider_of(device, name), golden=fresh, progress=progress)
    return found
