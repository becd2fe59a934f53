"""Every row of every file is in one task, whatever the format; ids that stand twice are found (B7, B12, B27)."""

import os
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import bulk as files

from q3_runtime.bulk.duplicates import IdFiles
from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.planning import CHUNK_BYTES, plan
from q3_runtime.bulk.records import Columns
from q3_runtime.bulk.sources import find_sources
from q3_runtime.bulk.tasks import Plan
from q3_runtime.bulk.worker import Cursor
from q3_runtime.errors import InputError

TEXT = Columns("text", None)
BOTH = Columns("text", "key")


@pytest.fixture
def place(tmp_path):
    made = OutFolder(tmp_path / "out")
    made.make()
    return made


def planned(place: OutFolder, paths: list[Path], columns: Columns = TEXT, chunk_rows: int = 4096, **options):
    found = plan(place, find_sources([str(path) for path in paths], place.path), columns, chunk_rows, **options)
    tasks = Plan(place)
    return found, [tasks.task(number) for number in range(len(tasks))]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["parquet", "jsonl", "csv", "txt", "jsonl.gz"]), st.integers(1, 40)), min_size=1, max_size=4
    ),
    st.integers(1, 15),
    st.booleans(),
)
def test_tasks_hold_every_row_once_and_in_order(tmp_path_factory, shapes, chunk_rows, backwards):
    home = tmp_path_factory.mktemp("plan")
    place = OutFolder(home / "out")
    place.make()
    wanted, paths = [], []
    for number, (ending, count) in enumerate(shapes):
        texts = [f"{number}:{text}" for text in files.texts(count)]
        paths.append(files.write(home / f"{number}.{ending}", texts))
        wanted += texts
    found, tasks = planned(place, paths, chunk_rows=chunk_rows)
    assert found.rows == len(wanted)
    cursor = Cursor(TEXT)
    for task in reversed(tasks) if backwards else tasks:
        assert task.rows <= chunk_rows
        read = [record.text for record in cursor.read(task)]
        assert read == wanted[task.first_row : task.first_row + task.rows]
    assert sum(task.rows for task in tasks) == len(wanted)


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_long_texts_make_tasks_of_few_rows(ending, tmp_path, place):
    path = tmp_path / f"a.{ending}"
    seeded = Random(0)
    text = [seeded.randbytes(CHUNK_BYTES // 8).hex() for _ in range(260)]  # hardly smaller when Parquet compresses it
    if ending == "parquet":
        pq.write_table(pa.table({"text": text}), path, use_dictionary=False)
    else:
        files.write(path, text)
    _, tasks = planned(place, [path])
    assert {task.rows for task in tasks} <= {2, 3, 4}


@pytest.mark.parametrize("ending", ["txt", "jsonl", "parquet"])
def test_a_small_input_is_divided_for_many_workers_and_not_into_crumbs(ending, tmp_path, place):
    lines = [f"{number} is a line of news, of fifty characters" for number in range(3000)]
    _, tasks = planned(place, [files.write(tmp_path / f"few.{ending}", lines)])
    assert 8 <= len(tasks) <= 12
    assert max(task.rows for task in tasks) <= 1.3 * 3000 / len(tasks)


def test_files_that_cannot_be_read_are_refused_or_left_out_and_named(tmp_path, place):
    good = files.write(tmp_path / "good.jsonl", ["a", "b"])
    bad = {
        "no rows": tmp_path / "empty.jsonl",
        "not a whole Parquet file": tmp_path / "cut.parquet",
        "none of its 1 rows can be embedded, the first: no text; pass --text-column or --id-column": tmp_path / "other.jsonl",
        "cannot be unpacked": tmp_path / "cut.txt.gz",
        "no column 'text'": tmp_path / "other.csv",
    }
    for path, content in zip(bad.values(), [b"", b"PAR1", b'{"body": "a"}\n', b"\x1f\x8b", b"body\na\n"], strict=True):
        path.write_bytes(content)
    for said, path in bad.items():
        with pytest.raises(InputError, match=f"{path.name}: .*{said}"):
            planned(place, [good, path])
    found, tasks = planned(place, [*bad.values(), good], keep_going=True)
    assert (found.rows, len(tasks)) == (2, 1)
    assert (
        [path for path, _ in found.skipped] == [str(path) for path in bad.values()] == [path for path, _ in Plan(place).skipped]
    )
    with pytest.raises(InputError, match=r"none of 5 files can be read, the first: .*empty.jsonl: no rows"):
        planned(place, list(bad.values()), keep_going=True)


class TestIdsThatStandTwice:
    def test_the_first_is_named_by_file_and_row(self, tmp_path, place):
        first = files.write(tmp_path / "a.jsonl", ["a", "b", "c"], key=["x", "y", "z"])
        second = files.write(tmp_path / "b.parquet", ["d", "e"], key=["w", "y"])
        with pytest.raises(
            InputError, match=r"1 row\(s\) have .*: row 1 of .*b\.parquet, as row 1 of .*a\.jsonl; .*--on-duplicate keep"
        ) as caught:
            planned(place, [first, second], BOTH)
        assert caught.value.fault == "E_DUPLICATE_ID"
        assert planned(place, [first, second], BOTH, unique_ids=False)[0].rows == 5
        assert list(place.scratch.iterdir()) == []

    def test_rows_without_an_id_are_not_equal(self, tmp_path, place):
        path = files.write(tmp_path / "a.jsonl", ["a", "b", "c"], key=[None, None, "x"])
        assert planned(place, [path], BOTH)[0].rows == 3

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.one_of(st.integers(-5, 40), st.text(max_size=2)), max_size=120))
    def test_all_of_them_are_found(self, tmp_path_factory, keys):
        with IdFiles(tmp_path_factory.mktemp("ids") / "ids") as ids:
            for row, key in enumerate(keys):
                ids.add(key, row)
            found = {row for _, row in ids.repeated()}
        words = list(map(str, keys))
        assert found == {row for row, key in enumerate(words) if key in words[:row]}

    def test_more_than_memory_holds_go_through_the_disk(self, tmp_path):
        with IdFiles(tmp_path / "ids") as ids:
            for row in range(150_000):
                ids.add(row % 149_999, row)
            assert list(ids.repeated()) == [(0, 149_999)]


def test_ids_are_integers_where_all_of_them_are(tmp_path, place):
    whole = files.write(tmp_path / "a.jsonl", ["a", "b"], key=[1, 2])
    words = files.write(tmp_path / "b.jsonl", ["a"], key=["x"])
    table = files.write(tmp_path / "c.csv", ["a"], key=[7])
    assert planned(place, [whole], BOTH)[0].id_type == "int64"
    assert planned(place, [whole, words], BOTH)[0].id_type == "string"
    assert planned(place, [whole, table], BOTH)[0].id_type == "string"
    assert planned(place, [words])[0].id_type == "int64"  # no column is asked for: rows are numbered


def test_the_same_files_give_the_same_plan_wherever_they_lie(tmp_path, place):
    path = files.write(tmp_path / "a.jsonl", files.texts(30))
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere/b.jsonl"
    copy.write_bytes(path.read_bytes())
    assert planned(place, [path])[0] == planned(place, [copy])[0]
    copy.write_bytes(path.read_bytes().replace(b"29: ", b"92: "))
    assert planned(place, [path])[0] != planned(place, [copy])[0]


def test_numbers_that_the_column_does_not_hold_come_out_as_strings(tmp_path, place):
    pq.write_table(pa.table({"text": ["a", "b"], "key": pa.array([5, 1 << 63], pa.uint64())}), tmp_path / "a.parquet")
    sources = find_sources([str(tmp_path / "a.parquet")], place.path)
    assert plan(place, sources, Columns("text", "key"), 10).id_type == "string"


def test_a_link_that_leads_nowhere_is_refused_or_left_out(tmp_path, place):
    (tmp_path / "in").mkdir()
    files.write(tmp_path / "in/a.txt", ["a"])
    (tmp_path / "in/b.txt").symlink_to(tmp_path / "gone.txt")
    sources = find_sources([str(tmp_path / "in")], place.path)
    with pytest.raises(FileNotFoundError):
        plan(place, sources, Columns("text", None), 10)
    planned = plan(place, sources, Columns("text", None), 10, keep_going=True)
    assert (planned.rows, [path for path, _ in planned.skipped]) == (1, [str(tmp_path / "in/b.txt")])


def test_of_two_links_to_one_folder_the_first_by_name_is_followed(tmp_path, place, monkeypatch):
    (tmp_path / "in/real").mkdir(parents=True)
    files.write(tmp_path / "in/real/a.txt", ["a"])
    for name in "zyx":
        (tmp_path / "in" / name).symlink_to(tmp_path / "in/real")
    walk = os.walk

    def backwards(*args, **options):
        for root, folders, names in walk(*args, **options):
            folders.sort(reverse=True)
            yield root, folders, names

    monkeypatch.setattr(os, "walk", backwards)
    assert [source.path for source in find_sources([str(tmp_path / "in")], place.path)] == [str(tmp_path / "in/real/a.txt")]
