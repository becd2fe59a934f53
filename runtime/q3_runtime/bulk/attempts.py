"""How often a task was begun, on disk, since what kills its process leaves no other trace.

A task that was begun three times and never ended is taken apart: halves of it are computed, alone and for nothing but to see
whether they kill the process, then halves of those that do, down to rows. Afterwards it is computed as a whole without the rows
that kill, so that its bytes do not depend on how they were found.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from q3_runtime.errors import ProviderError

MOST = 3
"""Attempts before a task is taken apart, and before a row alone counts as poison."""
MOST_POISON = 16
"""Rows of one task; where more kill, it is not the rows."""


@dataclass
class Attempts:
    """Of one task; ``path`` is its file, which is there from the beginning of a task to its end."""

    path: Path
    count: int = 0
    """How often what comes next was begun: the task, or the first of the suspects."""
    taken_apart: bool = False
    suspects: list[list[int]] = field(default_factory=list)
    """Ranges of rows [from, to) of the task that may hold poison."""
    poison: list[int] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Attempts":
        """What is known; nothing where the file is missing or damaged, which costs time only."""
        try:
            content = json.loads(path.read_text("utf-8"))
            suspects = [[int(low), int(high)] for low, high in content["suspects"]]
            poison = [int(row) for row in content["poison"]]
            return cls(path, int(content["count"]), bool(content["taken_apart"]), suspects, poison)
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path)

    def begin(self, rows: int) -> list[int] | None:
        """Count one more attempt, before it is made.

        Returns:
            A range of rows [from, to) to be computed for nothing but to see whether it ends; None: the task as a whole.

        Raises:
            ProviderError: it cannot be found out what kills the process.
        """
        if not self.suspects and self.count >= MOST:
            if self.taken_apart:
                raise ProviderError(
                    f"task {self.path.stem} has killed {self.count} processes, although none of its rows does alone; "
                    "run it with fewer --workers, or with more memory"
                )
            self.taken_apart, self.suspects, self.count = True, [[0, rows]], 1
        while self.suspects and self.count >= (1 if self._size() > 1 else MOST):
            self._blame()
        self.count += 1
        self._save()
        return self.suspects[0] if self.suspects else None

    def survived(self) -> None:
        """The range that :meth:`begin` gave is harmless."""
        self.suspects.pop(0)
        self.count = 0
        self._save()

    def forgive(self) -> None:
        """The last attempt was ended by somebody else."""
        self.count = max(0, self.count - 1)
        self._save() if self.count or self.taken_apart else self.end()

    def end(self) -> None:
        """The task is done."""
        self.path.unlink(missing_ok=True)

    def _size(self) -> int:
        low, high = self.suspects[0]
        return high - low

    def _blame(self) -> None:
        low, high = self.suspects.pop(0)
        self.count = 0
        if high - low > 1:
            middle = (low + high) // 2
            self.suspects[:0] = [[low, middle], [middle, high]]
            return
        self.poison.append(low)
        if len(self.poison) > MOST_POISON:
            raise ProviderError(
                f"task {self.path.stem}: {len(self.poison)} of its rows have each killed {MOST} processes; "
                "look at the rows, and whether the machine has memory enough"
            )

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({key: value for key, value in asdict(self).items() if key != "path"}), "utf-8")
        temporary.replace(self.path)
