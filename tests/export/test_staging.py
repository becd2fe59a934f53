"""The target is absent, or old and complete, or new and complete, whatever happens to the export."""

import errno
import fcntl
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from tests.support.checkpoints import write_checkpoint
from tests.support.server import not_under_nohup

from q3_export import export_model
from q3_export.recipes import RECIPES, Recipe
from q3_export.staging import Staging
from q3_runtime import Embedder
from q3_runtime.errors import BusyError, IntegrityError, ModelError, StorageError
from q3_runtime.integrity import check_files
from q3_runtime.manifest import Manifest
from q3_runtime.quants import QUANTS


@pytest.fixture
def second_quant(monkeypatch: pytest.MonkeyPatch) -> str:
    """A second row of the table: the same weights under another name."""
    monkeypatch.setitem(RECIPES, "fp16", Recipe(QUANTS["fp16"], activations="float32"))
    return "fp16"


@pytest.fixture
def target(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "tiny-onnx")


@pytest.fixture
def few(tmp_path: Path) -> Path:
    path = tmp_path / "few.txt"
    path.write_text("one two three four five six seven eight nine ten\nother\n")
    return path


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p.relative_to(folder)): (p.stat().st_size, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def complete(folder: Path) -> Manifest:
    manifest = Manifest.read(folder)
    check_files(folder, manifest.files | {k: v for q in manifest.quants.values() for k, v in q.files.items()}, remember=False)
    return manifest


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.glob(f".{target.name}*"))


def test_a_new_quant_joins_the_folder_and_the_old_one_stays(checkpoint: Path, target: Path, second_quant: str) -> None:
    before = content(target)
    stranger = target / "onnx/model_q9.onnx"
    stranger.write_bytes(b"what a killed export left here")
    (target / "onnx/.ipynb_checkpoints").mkdir()
    export_model(checkpoint, quant=second_quant, out=target)
    manifest = complete(target)
    assert list(manifest.quants) == ["fp32", "fp16"]
    assert not stranger.exists()
    assert (target / "onnx/.ipynb_checkpoints").is_dir()
    changed = {name for name, old in before.items() if content(target)[name] != old}
    assert changed == {"q3.json", "README.md", "config.json"}
    hints = json.loads((target / "config.json").read_text())["transformers.js_config"]
    assert hints == {"dtype": "fp32", "use_external_data_format": {"model.onnx": 1, "model_fp16.onnx": 1}}
    assert leftovers(target) == []
    for quant in manifest.quants:
        assert Embedder(target, quant=quant).encode("x").shape == (64,)


def test_what_joins_a_folder_is_on_the_disk_before_it_has_its_name(
    checkpoint: Path, target: Path, second_quant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[tuple[int, int]] = set()
    fsync, replace = os.fsync, os.replace

    def noting(handle: int) -> None:
        synced.add((os.fstat(handle).st_ino, os.fstat(handle).st_size))
        fsync(handle)

    def asking(old: Path, new: Path) -> None:
        if str(new).startswith(str(target)):
            assert (old.stat().st_ino, old.stat().st_size) in synced, old
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "replace", asking)
    export_model(checkpoint, quant=second_quant, out=target, no_verify=True)
    assert list(complete(target).quants) == ["fp32", "fp16"]


def test_the_same_quant_is_refused_without_force_and_replaced_with_it(
    checkpoint: Path, target: Path, second_quant: str
) -> None:
    before = content(target)
    with pytest.raises(ModelError, match="has fp32 already; give another --out, or --force") as caught:
        export_model(checkpoint, quant="fp32", out=target)
    assert (caught.value.exit_code, caught.value.fault) == (3, "E_EXISTS")
    assert content(target) == before
    export_model(checkpoint, quant=second_quant, out=target)
    export_model(checkpoint, quant="fp32", out=target, force=True)
    assert sorted(complete(target).quants) == ["fp16", "fp32"]
    assert leftovers(target) == []


def test_another_source_or_other_probes_need_force_and_then_nothing_old_stays(
    checkpoint: Path, target: Path, few: Path, tmp_path: Path, second_quant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(target)
    other = write_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="was made from another checkpoint"):
        export_model(other, quant=second_quant, out=target)
    with pytest.raises(ModelError, match=r"was judged by other probe texts.*--force to replace it, without its fp32"):
        export_model(checkpoint, quant=second_quant, out=target, probes=few)
    assert content(target) == before
    for name in ("notes.txt", "onnx/mine.onnx"):
        (target / name).write_text("mine")
    capsys.readouterr()
    export_model(other, quant=second_quant, out=target, probes=few, force=True, progress=True)
    said = capsys.readouterr().err
    assert "was made from another checkpoint" in said
    assert "--force: fp32 is not kept\n" in said
    assert f"{target}: discarded with what was there: notes.txt, onnx/mine.onnx\n" in said
    assert list(complete(target).quants) == ["fp16"]
    assert not (target / "onnx/model.onnx").exists()


def test_a_folder_that_is_not_ours_is_never_touched(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "documents"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(ModelError, match="a folder with other content"):
            export_model(checkpoint, quant="fp32", out=target, force=force)
    assert content(target) == {"thesis.txt": (13, b"years of work")}


def test_an_empty_folder_is_a_fine_target(checkpoint: Path, few: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    complete(export_model(checkpoint, quant="fp32", out=tmp_path / "empty", probes=few, no_verify=True))


def test_places_that_cannot_be_written_are_named_before_work(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    cases: list[tuple[Path, type[Exception], str]] = [
        (file, StorageError, "a file, expected a folder"),
        (tmp_path / "no" / "parent", StorageError, "parent folder does not exist; type: mkdir -p"),
        (tmp_path / ("x" * 300), StorageError, "File name too long"),
        (link, ModelError, "a symbolic link"),
    ]
    if sys.platform == "linux":
        cases.append((Path("/sys/q3-onnx"), StorageError, "cannot be written"))  # read-only even for root
        cases.append((Path("/dev/shm"), StorageError, "a mount point, .* give --out /dev/shm/NAME"))
    for out, error, message in cases:
        started = time.monotonic()
        with pytest.raises(error, match=message) as caught:
            export_model(checkpoint, quant="fp32", out=out)
        assert caught.value.exit_code == (5 if error is StorageError else 3)  # type: ignore[attr-defined]
        assert time.monotonic() - started < 5


def test_a_folder_that_may_not_be_written_is_named_before_work(
    checkpoint: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, who may write everywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK or Path(path).name != "onnx")
    with pytest.raises(StorageError, match=r"onnx: may not be written; .* chmod u\+wx"):
        export_model(checkpoint, quant="q8", out=target)


def test_a_disk_without_locks_is_named_and_nothing_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with pytest.raises(StorageError, match=r"cannot be locked there \(No locks available\)"), Staging(tmp_path / "out", print):
        pass
    assert not list(tmp_path.iterdir())
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "lock").write_text("7\n")  # somebody else's, who had a lock
    with pytest.raises(StorageError, match="cannot be locked there"), Staging(tmp_path / "out", print):
        pass
    assert (partial / "lock").read_text() == "7\n"


def test_a_swap_that_fails_between_its_renames_puts_the_old_folder_back(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = content(target), os.rename

    def second_fails(source: Path, goal: Path) -> None:
        if Path(source).name == "folder":
            raise KeyboardInterrupt
        rename(source, goal)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(KeyboardInterrupt), Staging(target, print) as staging:
        staging.swap()
    assert content(target) == before
    assert leftovers(target) == []


def test_an_old_folder_that_cannot_be_removed_is_named_and_the_new_one_is_there(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, said = shutil.rmtree, []

    def kept(path: Path, **options: bool) -> None:
        if Path(path).name == ".tiny-onnx.old":
            raise PermissionError(errno.EACCES, "Permission denied")
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", kept)
    with Staging(target, said.append) as staging:
        (staging.folder / "new").write_text("new")
        staging.swap()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert said == [
        f"{target.parent}/.tiny-onnx.old: what was there before cannot be removed (Permission denied); remove it by hand"
    ]


@pytest.mark.parametrize(
    ("damaged", "said"), [("q3.json", "q3.json: damaged"), ("golden.json", "golden vectors cannot be read")]
)
def test_a_damaged_folder_is_replaced_whole_with_force(
    checkpoint: Path, both: Path, few: Path, tmp_path: Path, damaged: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = shutil.copytree(both, tmp_path / "tiny-onnx")
    (target / damaged).write_text("")
    options = {"quant": "fp32", "out": target, "probes": few, "no_verify": True}
    with pytest.raises(IntegrityError, match=said):
        export_model(checkpoint, **options)
    export_model(checkpoint, **options, force=True, progress=True)
    assert re.search(rf"{said}.*; --force: nothing of it is kept", capsys.readouterr().err)
    assert list(complete(target).quants) == ["fp32"]


def test_with_force_only_what_is_damaged_is_given_up(
    checkpoint: Path, both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = shutil.copytree(both, tmp_path / "tiny-onnx")
    export_model(checkpoint, quant="q8", out=target, no_verify=True)
    (target / "onnx/model_fp16.onnx_data").write_bytes(b"damaged")
    (target / "tokenizer_config.json").write_text("{}")
    export_model(checkpoint, quant="q8", out=target, no_verify=True, force=True, progress=True)
    assert re.search(r"model_fp16\.onnx_data.*; --force: fp16 is not kept", capsys.readouterr().err)
    assert sorted(complete(target).quants) == ["fp32", "q8"]
    (target / "notes.txt").write_text("mine")
    export_model(checkpoint, quant="q4", out=target, no_verify=True, force=True)  # nothing is there to be replaced
    assert sorted(complete(target).quants) == ["fp32", "q4", "q8"]
    assert (target / "notes.txt").exists()


def test_an_export_whose_log_nobody_reads_any_more_goes_on(checkpoint: Path, few: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "q3_export.cli", "--model", str(checkpoint), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--probes", str(few), "--quant", "fp32"], stdout=subprocess.PIPE, stderr=write, check=False
    )
    os.close(write)
    assert done.returncode == 0
    assert done.stdout.endswith(f"{tmp_path / 'out'}\n".encode())
    assert complete(tmp_path / "out").quants["fp32"].fidelity


def test_a_full_disk_ends_in_exit_code_5_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the write of the weights fail as a full disk does."""
    out = tmp_path / "out"
    program = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    program += "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
    program += "import sys; from q3_export.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "--model", str(checkpoint), "--out", str(out), "--no-verify", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 5, run.stderr
    assert json.loads(run.stderr)["error"]["exit_code"] == 5
    assert not list(tmp_path.iterdir())


def test_too_little_disk_is_said_with_both_numbers_before_work(checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1_000_000))
    with pytest.raises(StorageError, match=r"0.0 GB free, the export needs 0.1 GB"):
        export_model(checkpoint, quant="fp32", out=tmp_path / "out")


def test_a_second_export_to_the_same_target_is_told_who_is_there(target: Path) -> None:
    with Staging(target, print), pytest.raises(BusyError, match=f"process {os.getpid()}") as caught, Staging(target, print):
        pass
    assert caught.value.exit_code == 75
    complete(target)
    assert leftovers(target) == []


DYING = """
import os, shutil, sys
from pathlib import Path
from q3_export.staging import Staging
from q3_runtime.manifest import Manifest

target, new, how, left = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def dying(function):
    def call(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), 9)
        left -= 1
        return function(*args, **kwargs)
    return call

with Staging(target, print) as staging:
    shutil.copytree(new, staging.folder, dirs_exist_ok=True)
    for name in ("replace", "fsync", "unlink", "rename", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))
    if how == "add":
        staging.add(Manifest.read(new))
    else:
        staging.swap()
    print("done", left)
"""


@pytest.fixture(scope="module")
def both(checkpoint: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a second quant added."""
    target = shutil.copytree(folder, tmp_path_factory.mktemp("both") / "tiny-onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "fp16", Recipe(QUANTS["fp16"], activations="float32"))
        return export_model(checkpoint, quant="fp16", out=target)


@pytest.mark.parametrize("how", ["add", "swap"])
def test_killed_between_any_two_steps_the_target_is_old_or_new_and_the_next_run_recovers(
    how: str, target: Path, both: Path
) -> None:
    old, new = set(Manifest.read(target).quants), set(Manifest.read(both).quants)
    seen: set[str] = set()
    for step in range(200):
        command = [sys.executable, "-c", DYING, str(target), str(both), how, str(step)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if not target.exists():  # only between the two renames of a swap
            assert how == "swap"
            seen.add("absent")
        else:
            found = set(complete(target).quants)
            assert found in (old, new)
            seen.add("new" if found == new else "old")
        with Staging(target, print):  # the next run
            assert set(complete(target).quants) in (old, new)
        assert leftovers(target) == []
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, run.stderr
        if set(Manifest.read(target).quants) == new:
            shutil.rmtree(target)
            shutil.copytree(both, target)
            _back_to_old(target, both)
    else:
        pytest.fail("never ended")
    assert step > 5
    assert seen >= {"old", "new"}


def _back_to_old(target: Path, both: Path) -> None:
    """Undo what a killed run had finished, so that the next step starts from the old folder."""
    manifest = Manifest.read(both)
    entry = manifest.quants.pop("fp16")
    for name in entry.files:
        (target / name).unlink()
    (target / "q3.json").write_text(manifest.to_json())


def test_killed_at_any_time_a_real_export_leaves_the_target_absent(checkpoint: Path, few: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "q3_export.cli", "--model", str(checkpoint), "--out", str(out)]
    command += ["--probes", str(few), "--quant", "fp32"]
    moment = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment.uniform(2, 7))
        process.kill()
        process.wait()
        assert not out.exists() or complete(out)
        shutil.rmtree(out, ignore_errors=True)
    complete(export_model(checkpoint, quant="fp32", out=out, probes=few, no_verify=True))
    assert leftovers(out) == []


@pytest.mark.parametrize("step", ["open", "ftruncate", "write"])
def test_an_interrupt_while_the_private_folder_is_made_takes_it_away(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    staging = Staging(tmp_path / "out", print)
    monkeypatch.setattr(os, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        staging.__enter__()
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_cleans_up_within_five_seconds(checkpoint: Path, few: Path, tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "q3_export.cli", "--model", str(checkpoint), "--out", str(out)]
    command += ["--probes", str(few), "--quant", "fp32"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=not_under_nohup,
    )  # fmt: skip
    while not leftovers(out):  # work has begun
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=5)
    assert process.returncode == code, errors
    assert "nothing half-written was left behind" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.txt"]


def test_the_next_run_says_that_it_discards_the_leftovers(target: Path, tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import os
        from pathlib import Path
        from q3_export.staging import Staging
        with Staging(Path({str(target)!r}), print) as staging:
            (staging.folder / "half").write_text("written")
            os.kill(os.getpid(), 9)
    """)
    subprocess.run([sys.executable, "-c", program], check=False)
    assert leftovers(target) == [".tiny-onnx.partial"]
    said: list[str] = []
    with Staging(target, said.append) as staging:
        assert not list(staging.folder.iterdir())
    assert said == [f"{tmp_path / '.tiny-onnx.partial'}: leftovers of a killed export discarded"]
