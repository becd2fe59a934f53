"""Exports that are killed, or whose disk fills up, on models of a real size: the target is absent, or old, or complete."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import ROOT, SHARED
from tests.export.test_staging import complete, leftovers
from tests.support.checkpoints import write_full_checkpoint
from tests.support.few_texts import write_few_texts

from q3_export import export_model
from q3_runtime.manifest import Manifest

pytestmark = pytest.mark.full("core")
MOMENTS = {"mini": 30, "0.6B": 5}


@pytest.fixture(params=list(MOMENTS))
def model(request: pytest.FixtureRequest, real_tokenizer: Path, tmp_path: Path) -> tuple[str, str]:
    """Its name and what to pass to --model."""
    if request.param == "mini":
        return "mini", "mini"
    return "0.6B", str(write_full_checkpoint("0.6B", tmp_path, SHARED))


def test_killed_at_any_moment_the_target_is_absent_or_old_or_complete(model: tuple[str, str], tmp_path: Path) -> None:
    """An export to a place where nothing is, and one that adds a quant to a folder, in turn."""
    name, source = model
    few = write_few_texts(ROOT / "models/mini" if source == "mini" else Path(source), tmp_path)
    old, target, absent = tmp_path / "old", tmp_path / "target", tmp_path / "absent"
    export_model(source, quant="q8", out=old, no_verify=True, probes=few[1], calibration=few[3])
    command = [sys.executable, "-m", "q3_export.cli", "--model", source, "--quant", "int8", *few, "--out"]
    started = time.monotonic()
    subprocess.run([*command, str(absent)], check=True, capture_output=True)
    whole = time.monotonic() - started
    shutil.rmtree(absent)
    shutil.copytree(old, target)

    moment, seen = random.Random(name), []
    for number in range(MOMENTS[name]):
        out = absent if number % 2 else target
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment.uniform(0, whole))
        process.kill()
        process.wait()
        quants = list(complete(out).quants) if out.exists() else []
        assert quants in ([["q8"], ["q8", "int8"]] if out == target else [[], ["int8"]])
        seen.append((out.name, quants, bool(leftovers(out))))
        if "int8" in quants:
            shutil.rmtree(out)
            if out == target:
                shutil.copytree(old, target)
    print(f"\n{name}, {whole:.0f} s: {seen}")
    assert any(left for _, _, left in seen)

    out = absent if leftovers(absent) else target
    found = bool(leftovers(out))
    done = subprocess.run([*command, str(out)], capture_output=True, text=True, check=True)
    assert ("leftovers of a killed export discarded" in done.stderr) == found
    assert list(complete(out).quants)[-1] == "int8"
    assert leftovers(out) == []


FULL_DISK = """
mount -t tmpfs -o size=200m tmpfs "$1" && cp -r "$2" "$1/out" || exit 99
shift 2
"$@" &
export=$!
while [ ! -e "$OUT/../.out.partial/folder/q3.json" ] && kill -0 $export 2>/dev/null; do sleep 0.02; done
cat /dev/zero > "$OUT/../filler" 2>/dev/null
wait $export; code=$?
rm "$OUT/../filler"
"$PYTHON" -m q3_runtime.cli verify "$OUT" --json > "$VERIFIED" || exit 98
ls -A "$OUT/.." > "$LEFT"
exit $code
"""


def test_a_disk_that_fills_up_ends_in_exit_code_5_and_the_old_folder_is_whole(tmp_path: Path) -> None:
    """A tmpfs; it is filled as soon as the first quant was written, so that the second does not find room."""
    few = write_few_texts(ROOT / "models/mini", tmp_path)
    old = export_model("mini", quant="q8", out=tmp_path / "old", probes=few[1], calibration=few[3])
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, "-m", "q3_export.cli", "--model", "mini", "--quant", "int8,fp32", *few]
    command += ["--out", str(disk / "out")]
    places = {"OUT": disk / "out", "VERIFIED": tmp_path / "verified.json", "LEFT": tmp_path / "left.txt"}
    run = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", FULL_DISK, "sh", str(disk), str(old), *command],
        env=os.environ | {name: str(path) for name, path in places.items()} | {"PYTHON": sys.executable},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 5, run.stderr
    error = run.stderr.strip().split("\n")[-1]
    assert "No space left" in error
    assert places["LEFT"].read_text().split() == ["out"]
    assert list(json.loads(places["VERIFIED"].read_text())["quants"]) == ["q8"] == list(Manifest.read(old).quants)
