"""What engines without last-token pooling need around them."""

from collections.abc import Sequence

import numpy as np

PAD_ID = 0
"""Any token: it is masked."""


def padded(rows: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and attention mask, int64 [B, T], padded on the right."""
    lengths = np.array([len(row) for row in rows])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    ids = np.full(mask.shape, PAD_ID, np.int64)
    ids[mask == 1] = np.concatenate([np.asarray(row) for row in rows])
    return ids, mask


def pooled(states: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Unit vectors float32 [B, D] of hidden states [B, T, D]: of the last token that is text."""
    last = states[np.arange(len(states)), mask.sum(1) - 1].astype(np.float32)
    return last / np.linalg.norm(last, axis=1, keepdims=True)
