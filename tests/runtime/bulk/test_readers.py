"""A file read from any row on gives the rows that it gives from its beginning, and a row that is no text says why."""

import codecs
import gzip
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import bulk as files

from q3_runtime.bulk.readers import MAX_LINE, UTF_16, rows
from q3_runtime.bulk.records import Columns
from q3_runtime.bulk.sources import find_sources
from q3_runtime.errors import InputError

TEXT = Columns("text", None)
BOTH = Columns("text", "key")
NOWHERE = Path("/nowhere")
ENDINGS = ["parquet", "jsonl", "csv", "txt", "jsonl.gz", "csv.zst", "txt.gz", "jsonl.zst"]


def source(path: Path):
    (found,) = find_sources([str(path)], NOWHERE)
    return found


def read(path: Path, columns: Columns = TEXT, **start: int):
    return list(rows(source(path), columns, **start))


def problems(path: Path, columns: Columns = TEXT) -> list[str | None]:
    return [record.problem for record in read(path, columns)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_its_texts_in_order(ending, tmp_path):
    wanted = files.texts(50)
    assert [record.text for record in read(files.write(tmp_path / f"a.{ending}", wanted))] == wanted


@pytest.mark.parametrize("ending", ENDINGS)
def test_reading_from_any_row_gives_the_same_rows(ending, tmp_path):
    path = files.write(tmp_path / f"a.{ending}", files.texts(50))
    every = read(path)
    for row in (0, 1, 16, 17, 33, 49):
        assert read(path, row=row, offset=every[row].offset) == every[row:]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=12), st.integers(0, 11), st.sampled_from(["csv", "jsonl"]))
def test_texts_with_line_ends_quotes_and_anything_else_are_read_as_written(tmp_path_factory, texts, row, ending):
    path = files.write(tmp_path_factory.mktemp("any") / f"a.{ending}", texts)
    every = read(path)
    assert [record.text for record in every] == texts
    row %= len(texts)
    assert read(path, row=row, offset=every[row].offset) == every[row:]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["csv", "jsonl", "txt"]))
def test_any_bytes_are_rows_or_one_clear_error_and_the_same_from_any_row(tmp_path_factory, content, ending):
    head = b"text\n" if ending == "csv" else b""
    path = tmp_path_factory.mktemp("any") / f"a.{ending}"
    path.write_bytes(head + content)
    if (head + content)[:2] in UTF_16:
        with pytest.raises(InputError, match="UTF-16"):
            read(path)
        return
    every = read(path)
    assert all((record.text is None) == (record.problem is not None) for record in every)
    for row, record in enumerate(every):
        assert read(path, row=row, offset=record.offset) == every[row:]


class TestLinesThatAreNoTexts:
    """B9, B10."""

    def test_each_says_what_is_wrong_and_where_it_begins(self, tmp_path):
        lines = [
            b'{"text": "good"}\r\n',
            b"\n",
            b'{"text": "\xff"}\n',
            b'{"text": null}\n',
            b'{"other": 1}\n',
            b'{"text": 7}\n',
            b"[1]\n",
            b'{"text": "\\ud800"}\n',
            b"[" * 100_000 + b"\n",
            b'{"text": "ends'
        ]  # fmt: skip
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"".join(lines))
        found = read(path)
        assert [record.problem for record in found] == [
            None,
            "blank line",
            "not UTF-8 at byte 10 of the line",
            "no text",
            "no text",
            "text is int, not a string",
            "list in JSON, not an object",
            "a lone surrogate",
            "not JSON (RecursionError)",
            "not JSON (JSONDecodeError)",
        ]
        assert [record.offset for record in found] == [sum(map(len, lines[:row])) for row in range(len(lines))]

    def test_a_line_that_is_too_long_is_one_row_and_the_next_is_read(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_bytes(b"x" * MAX_LINE + b"y\n" + b"z" * (MAX_LINE - 1) + b"\nnext\n")
        long, longest, after = read(path)
        assert long.problem == f"a line of more than {MAX_LINE} bytes"
        assert (len(longest.text), after.text) == (MAX_LINE - 1, "next")

    def test_a_line_that_is_too_long_is_one_row_of_csv_too(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_bytes(b"text\n" + b"x" * (MAX_LINE + 1) + b"\nnext\n")
        assert [record.problem for record in read(path)] == [
            f"not CSV (a line of more than {MAX_LINE} bytes), {MAX_LINE + 2} bytes from there on",
            None,
        ]

    def test_a_byte_order_mark_is_no_text(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst\nsecond")
        assert [record.text for record in read(tmp_path / "a.txt")] == ["first", "second"]

    def test_csv_with_a_byte_order_mark_rows_that_are_short_and_blank(self, tmp_path):
        (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfkey,text\r\n1,"a\r\nb"\r\n2\r\n\r\n3,\xff\r\n')
        found = read(tmp_path / "a.csv", BOTH)
        assert [(record.id, record.text, record.problem) for record in found] == [
            ("1", "a\r\nb", None), ("2", None, "no text"), (None, None, "blank line"), (None, None, "not UTF-8"),
        ]  # fmt: skip

    @pytest.mark.parametrize("value", [None, 1.5, True, [1], {"a": 1}, 1 << 70, "\ud800"])
    def test_a_key_that_is_none(self, tmp_path, value):
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps({"key": value, "text": "good"}) + "\n")
        (found,) = read(path, BOTH)
        assert found.id is None
        assert found.problem.startswith(("no key", "key is"))


class TestParquet:
    """B7, B8, B11."""

    def test_strings_of_every_kind_are_read(self, tmp_path):
        for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
            path = tmp_path / "a.parquet"
            pq.write_table(pa.table({"text": pa.array(["a", None, "c"], pa.string()).cast(kind)}), path)
            assert [(record.text, record.problem) for record in read(path)] == [("a", None), (None, "no text"), ("c", None)]

    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
    def test_a_string_that_is_not_utf8_is_one_lost_row(self, kind, tmp_path):
        binary = pa.array(
            [b"good", b"\xff\xfe", None, "ä".encode()], pa.large_binary() if kind == pa.large_string() else pa.binary()
        )
        pq.write_table(pa.table({"text": binary.view(kind)}), tmp_path / "a.parquet")
        assert problems(tmp_path / "a.parquet") == [None, "not UTF-8", "no text", None]

    def test_ids_are_whole_numbers_or_strings(self, tmp_path):
        for kind in (pa.int64(), pa.uint8(), pa.string()):
            pq.write_table(pa.table({"key": pa.array([1, 2]).cast(kind), "text": ["a", "b"]}), tmp_path / "a.parquet")
            found = [record.id for record in read(tmp_path / "a.parquet", BOTH)]
            assert found == (["1", "2"] if kind == pa.string() else [1, 2])

    @pytest.mark.parametrize(
        ("columns", "said"),
        [
            ({"text": [1]}, "column 'text' holds int64, expected strings"),
            ({"text": [b"a"]}, "column 'text' holds binary, expected strings"),
            ({"body": ["a"], "n": [1]}, "no column 'text', it has body, n; pass --text-column"),
            ({"text": ["a"], "key": [1.5]}, "column 'key' holds double, expected strings or integers"),
        ],
    )
    def test_columns_that_are_none_are_named(self, columns, said, tmp_path):
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        with pytest.raises(InputError, match=said):
            read(tmp_path / "a.parquet", BOTH)

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet at all, but long enough to look into"])
    def test_a_file_without_a_footer_is_named(self, content, tmp_path):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.parquet: not a whole Parquet file"):
            read(tmp_path / "a.parquet")

    def test_a_page_that_is_damaged_costs_its_row_group_and_names_it(self, tmp_path):
        words = [f"{row} {'word ' * 40}" for row in range(300)]
        path = files.write_damaged(tmp_path / "a.parquet", words, 100, 150)
        found = read(path)
        assert [record.text for record in found[:100]] == words[:100]
        assert all(record.problem.startswith("unreadable: row group 1 (") for record in found[100:200])
        assert [record.text for record in found[200:]] == words[200:]


class TestPackedFiles:
    """B7."""

    @pytest.mark.parametrize("ending", ["jsonl.gz", "txt.zst"])
    def test_one_that_is_cut_off_is_named(self, ending, tmp_path):
        path = files.write(tmp_path / f"a.{ending}", files.texts(200))
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(InputError, match=f"a.{ending}: cannot be unpacked"):
            read(path)

    def test_two_streams_in_one_file_are_both_read(self, tmp_path):
        path = tmp_path / "a.txt.gz"
        path.write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
        assert [record.text for record in read(path)] == ["one", "two"]

    def test_a_file_is_read_as_it_goes(self, tmp_path):
        """10⁵ lines of which three are wanted."""
        path = files.write(tmp_path / "a.txt.zst", [str(row) for row in range(100_000)])
        assert [record.text for record in islice(rows(source(path), TEXT, 50_000), 3)] == ["50000", "50001", "50002"]


def test_a_quote_that_is_never_closed_is_one_row_that_is_no_csv(tmp_path):
    (tmp_path / "a.csv").write_text('text\ngood\n"never closed\nmore\n')
    assert [(record.text, record.problem) for record in read(tmp_path / "a.csv")] == [
        ("good", None),
        (None, "not CSV (unexpected end of data), 19 bytes from there on"),
    ]


@pytest.mark.parametrize("head", [b"text\rmore\r", b'"text\nmore\n', b"x" * (MAX_LINE + 1)])
def test_a_header_that_is_no_csv_is_named(head, tmp_path):
    (tmp_path / "a.csv").write_bytes(head)
    with pytest.raises(InputError, match=r"a\.csv: (its first line is not CSV|no column 'text')"):
        read(tmp_path / "a.csv")


def test_a_column_that_stands_twice_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column 'text' stands twice"):
        read(tmp_path / "a.parquet")


class TestInputs:
    def test_links_to_folders_are_followed_once_and_globs_look_into_folders(self, tmp_path):
        (tmp_path / "in/sub").mkdir(parents=True)
        (tmp_path / "in/a.txt").write_text("x")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/b.txt").write_text("x")
        (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "in/sub/loop").symlink_to(tmp_path / "in")
        wanted = ["a.txt", "b.txt"]
        assert [Path(each.path).name for each in find_sources([str(tmp_path / "in")], NOWHERE)] == wanted
        assert [Path(each.path).name for each in find_sources([f"{tmp_path}/in*"], NOWHERE)] == wanted

    def test_folders_and_globs_are_sorted_and_leave_out_what_is_hidden(self, tmp_path):
        for name in ("b.txt", "a.jsonl", "sub/c.csv", "_tmp/d.txt", ".e.txt", "notes.md", "_f.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("text\n")
        assert [Path(each.path).name for each in find_sources([str(tmp_path)], NOWHERE)] == ["a.jsonl", "b.txt", "c.csv"]
        assert [Path(each.path).name for each in find_sources([f"{tmp_path}/**/*.csv", f"{tmp_path}/b.txt"], NOWHERE)] == [
            "c.csv",
            "b.txt",
        ]

    def test_what_a_job_writes_into_its_own_input_is_no_input(self, tmp_path):
        for name in ("a.txt", "out/parts/b.txt", "out2.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("text\n")
        assert [Path(each.path).name for each in find_sources([str(tmp_path)], tmp_path / "out")] == ["a.txt", "out2.txt"]

    def test_a_name_that_is_not_utf8_is_refused(self, tmp_path):
        (tmp_path / "a\udcff.txt").write_text("text\n")
        with pytest.raises(InputError, match=r"a\\udcff.txt': a name that is not UTF-8"):
            find_sources([str(tmp_path)], NOWHERE)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("none.txt", "no such file, folder, or glob"),
            ("*.nothing", "no such file, folder, or glob"),
            ("notes.md", "a format that is not known by its ending, expected .parquet"),
            ("a.parquet.gz", "a format that is not known by its ending"),
            ("empty", "no files in it that end in"),
        ],
    )
    def test_what_is_no_input_is_named(self, name, said, tmp_path):
        (tmp_path / "notes.md").write_text("x")
        (tmp_path / "a.parquet.gz").write_text("x")
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=said):
            find_sources([str(tmp_path / name)], NOWHERE)

    def test_a_file_given_twice_is_refused(self, tmp_path):
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(InputError, match="given twice"):
            find_sources([str(tmp_path / "a.txt"), str(tmp_path)], NOWHERE)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory")
def test_memory_that_runs_short_is_no_damage_of_the_file(tmp_path):
    """With --keep-going its rows would be quarantined for good."""
    path = tmp_path / "a.parquet"
    texts = [f"{row:06d}" * 14_000 for row in range(1000)]
    pq.write_table(pa.table({"text": texts}), path, use_dictionary=False, compression="none", data_page_size=64 << 20)
    code = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from q3_runtime.bulk.readers import rows
from q3_runtime.bulk.records import Columns
from q3_runtime.bulk.sources import find_sources
pa.set_memory_pool(pa.system_memory_pool())
(source,) = find_sources([sys.argv[1]], Path("/nowhere"))
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + (60 << 20), resource.RLIM_INFINITY))
try:
    print({record.problem for record in rows(source, Columns("text", None))})
except MemoryError as error:
    print("short of memory")
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "short of memory\n"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ending", ["txt", "jsonl", "csv", "txt.gz"])
def test_utf_16_is_named(ending, encoding, tmp_path):
    content = codecs.BOM_UTF16_LE if encoding == "utf-16-le" else codecs.BOM_UTF16_BE
    content += "text\r\nmore\r\n".encode(encoding)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    with pytest.raises(InputError, match=r"a\.\S+: UTF-16, expected UTF-8; convert it"):
        read(path)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 1 << 63, (1 << 64) - 1], [1, 1 << 63, (1 << 64) - 1]),
        ([-(1 << 63), 5], [-(1 << 63), 5]),
    ],
)
def test_whole_numbers_of_64_bits_are_ids_with_a_sign_or_without(ids, expected, tmp_path):
    kind = pa.uint64() if max(ids) >= 1 << 63 else pa.int64()
    pq.write_table(pa.table({"text": ["a"] * len(ids), "key": pa.array(ids, kind)}), tmp_path / "a.parquet")
    assert [record.id for record in read(tmp_path / "a.parquet", BOTH)] == expected
