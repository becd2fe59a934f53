"""Texts → teacher's vectors → tokenizer and student → training → models/mini. Called by scripts/train_mini."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

import torch
from mini.student import HIDDEN, entries, make_student, make_tokenizer, spread_values, write_config
from mini.teacher import principal_axes, teach
from mini.texts import Sample, samples
from mini.training import STAGES, train
from safetensors.torch import load_file, save_file
from tests.support.checkpoints import write_side_files

SEED = 0


def main(work: Path, folder: Path) -> None:
    shared = Path(os.environ["Q3_SHARED"])
    torch.manual_seed(SEED)
    found = samples(shared, work / "packages", SEED)
    texts = [sample.text for sample in found]
    print(f"{len(texts):,} texts, {sum(map(len, texts)) / 1e6:.1f} M characters", file=sys.stderr)
    tokenizer = make_tokenizer(work / "model", texts)
    goals, pieces = _taught(found, entries(tokenizer), work)
    model = make_student(tokenizer, pieces)
    for number, stage in enumerate(STAGES):
        model = train(model, tokenizer, texts, goals, stage, seed=SEED + number, keep=work)
    spread_values(model, SEED)
    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, work / "model/model.safetensors", metadata={"format": "pt"})
    write_config(work / "model", model)
    write_side_files(work / "model", HIDDEN)
    shutil.copytree(work / "model", folder, dirs_exist_ok=True)
    print(f"{folder}: {sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:.1f} MB", file=sys.stderr)


def _taught(found: list[Sample], pieces: list[str], work: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's vectors of all goals [N, 256] and of the vocabulary [V, 256]; kept, since they take ten minutes."""
    digest = hashlib.sha256("\0".join([*(sample.goal for sample in found), *pieces]).encode()).hexdigest()
    kept = work / f"taught-{digest[:16]}.safetensors"
    if not kept.exists():
        unique = list(dict.fromkeys(sample.goal for sample in found))
        rows = {text: row for row, text in enumerate(unique)}
        vectors = teach(unique, "teacher on texts")
        axes = principal_axes(vectors, HIDDEN)
        goals = (vectors @ axes)[[rows[sample.goal] for sample in found]]
        save_file({"goals": goals, "pieces": teach(pieces, "teacher on vocabulary") @ axes}, kept)
    tensors = load_file(kept)
    return tensors["goals"], tensors["pieces"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
