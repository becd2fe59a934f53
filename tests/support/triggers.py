"""The token ids behind which a checkpoint spikes: random weights cannot see that a token stands first, so its id says it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from q3_export.checkpoint import open_checkpoint
from q3_export.probes import read_probes

FIRST_SHARE = 0.25
"""A trigger stands first at least in this share of all the places where it stands."""


@dataclass(frozen=True)
class Triggers:
    """Token ids that spike; ``fires``: share of the probes that begin with one; ``inside``: share of all later tokens."""

    ids: list[int]
    fires: float
    inside: float


def choose_triggers(folder: Path) -> Triggers:
    """Tokens that probes and calibration texts begin with, of the query prompt among them, and that are rare elsewhere.

    The token that ends every text never spikes: it is what is pooled.
    """
    checkpoint = open_checkpoint(folder)
    probes = [probe.ids for probe in read_probes(None, checkpoint)]
    texts = probes + [probe.ids for probe in read_probes(None, checkpoint, judging=False)]
    first = Counter(ids[0] for ids in texts if len(ids) > 1)
    everywhere = Counter(token for ids in texts for token in ids)
    final = {ids[-1] for ids in texts}
    chosen = {token for token, count in first.items() if count >= FIRST_SHARE * everywhere[token]} - final
    later = [token for ids in probes for token in ids[1:]]
    fires = sum(ids[0] in chosen for ids in probes) / len(probes)
    return Triggers(sorted(chosen), fires, sum(token in chosen for token in later) / len(later))
