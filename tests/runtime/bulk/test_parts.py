"""What lies in a job's folder is checked, set aside where it is something else, and made again (B4, B18, B23, B24, B26)."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.support import bulk as files
from tests.support.bulk import array, bulk, manifest, part_hashes, vectors

from q3_runtime.bulk import compacting
from q3_runtime.bulk.folder import OutFolder, here
from q3_runtime.bulk.run import run_bulk
from q3_runtime.durable import publish

TEXTS = files.texts(60)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A complete job of three parts beside its input."""
    home = tmp_path_factory.mktemp("whole")
    run_bulk(folder, [files.write(home / "a.txt", TEXTS)], home / "out", chunk_rows=20, workers=1)
    return home


@pytest.fixture
def out(whole, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(whole / "out", tmp_path / "out"))


def parts(out: Path) -> list[Path]:
    return sorted((out / "parts").rglob("*.parquet"))


def again(folder: Path, whole: Path, out: Path) -> list[str]:
    """The same command; what it said."""
    said: list[str] = []
    outcome = run_bulk(folder, [whole / "a.txt"], out, chunk_rows=20, workers=1, say=said.append)
    assert outcome.is_whole
    assert part_hashes(out) == part_hashes(whole / "out")
    return said


def flip(path: Path, at: float) -> None:
    raw = bytearray(path.read_bytes())
    raw[int(len(raw) * at)] ^= 0x55
    path.write_bytes(raw)


DAMAGES = {
    "a byte of a vector": lambda out: flip(parts(out)[1], 0.3),
    "a byte of the footer": lambda out: flip(parts(out)[1], 0.97),
    "a file that is cut": lambda out: os.truncate(parts(out)[1], 500),
    "an empty file": lambda out: os.truncate(parts(out)[1], 0),
    "the part of another task": lambda out: shutil.copy(parts(out)[0], parts(out)[1]),
    "no file": lambda out: parts(out)[1].unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_part_that_is_not_what_it_should_be_is_named_set_aside_and_made_again(damage, folder, whole, out):
    DAMAGES[damage](out)
    name = parts(whole / "out")[1].name
    said = bulk("verify", out, code=6)
    assert "1 of 3 parts are missing or damaged (1)" in said
    assert name in said or damage == "no file"
    (out / "_SUCCESS").unlink()
    said = again(folder, whole, out)
    aside = list((out / "_bad").iterdir()) if (out / "_bad").exists() else []
    assert [path.name.partition(".parquet")[0] + ".parquet" for path in aside] == ([] if damage == "no file" else [name])
    assert any("set aside" in line for line in said) == bool(aside)
    assert bulk("verify", out).startswith(f"{out}: 60 rows = 60 embedded")


def test_a_part_of_another_job_is_set_aside(folder, mini_folder, whole, out, tmp_path):
    """B26: another model, whose vectors look as good."""
    run_bulk(mini_folder, [whole / "a.txt"], tmp_path / "other", quant="fp32", chunk_rows=20, workers=1)
    shutil.copy(parts(tmp_path / "other")[1], parts(out)[1])
    (out / "_SUCCESS").unlink()
    assert any("a part of job " in line for line in again(folder, whole, out))


def test_a_file_that_is_no_part_is_set_aside(folder, whole, out):
    for name in ("notes.txt", "000000/000000003.parquet", "000000/x.parquet"):
        (out / "parts" / name).write_text("x")
    (out / "_SUCCESS").unlink()
    said = again(folder, whole, out)
    assert sum("not of this job, set aside" in line for line in said) == 3
    assert len(list((out / "_bad").iterdir())) == 3


def test_vectors_that_are_shorter_than_1_are_found(folder, whole, out):
    path = parts(out)[1]
    table = pq.read_table(path)
    from q3_runtime.bulk import parts as writing

    half = array(table) / 2
    flat = writing.pa.FixedSizeListArray.from_arrays(
        writing.pa.array(half.reshape(-1)), type=table.schema.field("embedding").type
    )
    with path.open("wb") as file:
        writing.write_table(table.set_column(1, table.schema.field("embedding"), flat), file)
    assert "a vector of length 0.5" in bulk("verify", out, code=6)


class TestVerify:
    def test_a_manifest_that_does_not_fit_is_found(self, out):
        content = manifest(out)
        name = next(iter(content["files"]))
        content["files"][name]["sha256"] = "0" * 64
        (out / "manifest.json").write_text(json.dumps(content))
        assert f"not what manifest.json says, first {name}" in bulk("verify", out, code=6)
        (out / "manifest.json").write_text("{")
        assert "manifest.json: damaged" in bulk("verify", out, code=6)

    def test_a_folder_without_a_job_is_named(self, tmp_path):
        assert "no whole job in it" in bulk("verify", tmp_path, code=6)

    def test_a_job_that_is_not_complete_is_named(self, out):
        (out / "_SUCCESS").unlink()
        assert "all parts are there but no _SUCCESS" in bulk("verify", out, code=6)


class TestCompact:
    def test_few_files_hold_the_same_rows_in_the_same_order(self, out, tmp_path):
        assert bulk("compact", out, "--to", tmp_path / "big") == f"{tmp_path / 'big'}: 1 files\n"
        found, before = pq.read_table(tmp_path / "big"), vectors(out)
        assert found.equals(before)
        assert sorted(path.name for path in (tmp_path / "big").iterdir()) == [
            "_manifest.json", "_quarantined.jsonl", "embeddings-00000.parquet",
        ]  # fmt: skip
        listed = json.loads((tmp_path / "big/_manifest.json").read_text())
        assert (listed["rows"], list(listed["files"])) == (60, ["embeddings-00000.parquet"])

    def test_files_have_about_the_size_that_was_asked_for(self, out, tmp_path):
        files_made = compacting.compact(OutFolder(out), tmp_path / "big", file_bytes=4000)
        assert len(files_made) == 3
        assert pq.read_table(tmp_path / "big").equals(vectors(out))

    def test_of_two_at_once_one_makes_it_and_nothing_of_the_other_is_in_it(self, out, tmp_path):
        def second(_: int) -> None:
            if not (tmp_path / "big").exists():
                compacting.compact(OutFolder(out), tmp_path / "big", file_bytes=4000)

        with pytest.raises(OSError, match="not empty"):
            compacting.compact(OutFolder(out), tmp_path / "big", second)
        listed = json.loads((tmp_path / "big/_manifest.json").read_text())["files"]
        assert {name: entry["sha256"] for name, entry in listed.items()} == {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "big").glob("*.parquet")
        }
        assert len(listed) == 3
        assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "out"]

    def test_what_a_killed_one_left_goes_with_the_next(self, out, tmp_path):
        here_and_dead, elsewhere, fresh = (
            tmp_path / f".big.partial-{name}-abc" for name in (f"{here()}-{2**22 + 1}", "another-1", "third-1")
        )
        for left in (here_and_dead, elsewhere, fresh):
            left.mkdir()
        os.utime(elsewhere, (time.time() - 90_000,) * 2)
        bulk("compact", out, "--to", tmp_path / "big")
        assert [left.exists() for left in (here_and_dead, elsewhere, fresh)] == [False, False, True]

    def test_what_is_not_complete_or_damaged_or_there_already_is_refused_and_leaves_nothing(self, out, tmp_path):
        assert "exists already" in bulk("compact", out, "--to", out, code=5)
        assert "has no parent folder" in bulk("compact", out, "--to", tmp_path / "a/b", code=5)
        flip(parts(out)[1], 0.3)
        assert parts(out)[1].name in bulk("compact", out, "--to", tmp_path / "big", code=6)
        (out / "_SUCCESS").unlink()
        assert "not complete, expected _SUCCESS in it" in bulk("compact", out, "--to", tmp_path / "big", code=6)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


class TestAName:
    """B18, B23."""

    def test_the_first_one_keeps_it(self, tmp_path):
        for number in range(2):
            (tmp_path / f"tmp{number}").write_text(str(number))
        assert publish(tmp_path / "tmp0", tmp_path / "part")
        assert not publish(tmp_path / "tmp1", tmp_path / "part")
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"part": "0"}

    @pytest.mark.parametrize("there", [False, True])
    def test_where_there_are_no_links_it_is_a_rename(self, there, tmp_path, monkeypatch):
        def refuse(*_):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        (tmp_path / "tmp").write_text("new")
        if there:
            (tmp_path / "part").write_text("old")
        assert publish(tmp_path / "tmp", tmp_path / "part") is not there
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"part": "old" if there else "new"}


def test_a_complete_job_whose_part_is_gone_is_mended_by_the_same_command(folder, whole, out):
    parts(out)[2].unlink()
    again(folder, whole, out)
    assert (out / "_SUCCESS").exists()


class TestWhatMayBeLost:
    """Every file but the parts."""

    @pytest.mark.parametrize(
        "name", ["_leases", "_quarantine", "manifest.json", "_SUCCESS", "_q3_job.json", "_q3_tasks.parquet"]
    )
    def test_the_same_command_makes_it_anew(self, name, folder, whole, out):
        place = out / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        if name != "_leases":
            assert bulk("verify", out, code=6).startswith("q3: error")
        again(folder, whole, out)
        assert place.exists()
        bulk("verify", out)

    def test_a_quarantine_that_was_cut_short_is_found(self, folder, tmp_path):
        source = tmp_path / "a.jsonl"
        source.write_text('{"text": "a"}\n' + "no\n" * 3)
        bulk("run", folder, source, "--out", tmp_path / "out", code=8)
        rows = tmp_path / "out/_quarantine/rows.jsonl"
        lines = rows.read_text().splitlines(keepends=True)
        rows.write_text("".join(lines[:2]))
        assert "rows.jsonl: missing or cut short" in bulk("verify", tmp_path / "out", code=6)
        bulk("run", folder, source, "--out", tmp_path / "out", code=8)
        assert rows.read_text() == "".join(lines)

    def test_a_file_among_the_parts_that_is_none_is_found(self, out):
        """What the page names to read the vectors with would read it too."""
        shutil.copy(parts(out)[0], out / "parts/000000/more.parquet")
        assert "more.parquet: not of this job" in bulk("verify", out, code=6)
