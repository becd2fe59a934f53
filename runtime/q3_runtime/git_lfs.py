"""What ``git clone`` leaves where Git LFS is not installed: a few lines in the place of every large file."""

from pathlib import Path

BEGINNING = b"version https://git-lfs.github.com/spec/"
PULL = "a pointer of Git LFS, expected the file itself; in its repository type: git lfs install && git lfs pull"


def is_pointer(path: Path) -> bool:
    """Whether the file only names what should be there (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md).

    One that cannot be read is none: whoever needs it says what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(BEGINNING)) == BEGINNING
    except OSError:
        return False
