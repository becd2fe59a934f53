"""``q3 bulk run``: the vectors of Embedder.encode for every row, and a job that knows what it is (B5, B6, B10–B14)."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support import bulk as files
from tests.support.bulk import array, bulk, lost, manifest, part_hashes, vectors

from q3_runtime import Embedder
from q3_runtime.bulk.run import run_bulk
from q3_runtime.errors import FidelityError, InputError, ModelError, UsageError

TEXTS = files.texts(60)


def same(out: Path, wanted: np.ndarray, tolerance: float = 1e-5) -> bool:
    return bool(np.abs(array(vectors(out)).astype(np.float64) - wanted).max() <= tolerance)


@pytest.fixture(scope="module")
def model(folder):
    with Embedder(folder) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def begun(folder, tmp_path_factory):
    """A job that lacks nothing but its last file, beside its input."""
    home = tmp_path_factory.mktemp("begun")
    source = files.write(home / "a.jsonl", TEXTS, key=range(60))
    run_bulk(folder, [source], home / "out", id_column="key")
    (home / "out/_SUCCESS").unlink()
    return home


class TestWhatComesOut:
    @pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv", "txt", "jsonl.gz", "csv.zst"])
    def test_every_row_has_the_vector_that_the_library_gives(self, ending, folder, model, tmp_path):
        source = files.write(tmp_path / f"a.{ending}", TEXTS)
        said = bulk("run", folder, source, "--out", tmp_path / "out", "--chunk-rows", 25)
        assert said == f"{tmp_path / 'out'}: 60 rows = 60 embedded + 0 quarantined\n"
        table = vectors(tmp_path / "out")
        assert table.column_names == ["id", "embedding", "n_tokens", "truncated", "row"]
        assert table.column("row").to_pylist() == table.column("id").to_pylist() == list(range(60))
        assert table.column("n_tokens").to_pylist() == [len(item.ids) for item in model.tokenizer.encode(TEXTS)]
        assert not any(table.column("truncated").to_pylist())
        assert table.schema.field("embedding").type == pa.list_(pa.field("item", pa.float32(), nullable=False), 64)
        assert same(tmp_path / "out", model.encode(TEXTS))

    def test_several_files_are_one_sequence_of_rows(self, folder, model, tmp_path):
        (tmp_path / "in").mkdir()
        for number, ending in enumerate(["jsonl", "parquet", "csv.gz"]):
            part = slice(20 * number, 20 * number + 20)
            files.write(tmp_path / f"in/{number}.{ending}", TEXTS[part], key=[f"k{row}" for row in range(60)][part])
        bulk("run", folder, tmp_path / "in", "--out", tmp_path / "out", "--id-column", "key")
        assert vectors(tmp_path / "out").column("id").to_pylist() == [f"k{row}" for row in range(60)]
        assert same(tmp_path / "out", model.encode(TEXTS))

    @pytest.mark.parametrize(
        ("precision", "kind", "width"),
        [
            ("float16", pa.float16(), 32),
            ("int8", pa.int8(), 32),
            ("uint8", pa.uint8(), 32),
            ("binary", pa.int8(), 4),
            ("ubinary", pa.uint8(), 4),
        ],
    )
    def test_prompt_dim_and_precision_are_those_of_encode(self, precision, kind, width, folder, model, tmp_path):
        source = files.write(tmp_path / "a.txt", TEXTS)
        options = {"prompt_name": "query", "dim": 32, "precision": precision}
        outcome = run_bulk(folder, [source], tmp_path / "out", **options)
        assert outcome.is_whole
        table = vectors(tmp_path / "out")
        assert table.schema.field("embedding").type == pa.list_(pa.field("item", kind, nullable=False), width)
        wanted = model.encode(TEXTS, **options).astype(np.int16 if precision != "float16" else np.float32)
        off = np.abs(array(table).astype(wanted.dtype) - wanted)
        if precision == "float16":
            assert off.max() <= 1e-3
        elif precision in ("int8", "uint8"):
            assert off.max() <= 1  # a value on the edge of two steps
        else:
            bits = np.bitwise_count(array(table).view(np.uint8) ^ model.encode(TEXTS, **options).view(np.uint8))
            assert bits.sum() <= 2

    def test_an_instruction_is_put_in_front(self, folder, model, tmp_path):
        source = files.write(tmp_path / "a.txt", TEXTS[:10])
        bulk("run", folder, source, "--out", tmp_path / "out", "--instruction", "Find {code}")
        assert same(tmp_path / "out", model.encode(TEXTS[:10], instruction="Find {code}"))

    def test_texts_are_cut_at_max_tokens_and_say_so(self, folder, model, tmp_path):
        source = files.write(tmp_path / "a.txt", ["short", " ".join(TEXTS)])
        bulk("run", folder, source, "--out", tmp_path / "out", "--max-tokens", 20)
        table = vectors(tmp_path / "out")
        assert table.column("n_tokens").to_pylist() == [len(model.tokenizer.encode(["short"])[0].ids), 20]
        assert table.column("truncated").to_pylist() == [False, True]
        ids = model.tokenizer.encode([" ".join(TEXTS)])[0].ids
        assert same(tmp_path / "out", np.concatenate([model.encode(["short"]), model.run([np.append(ids[:19], ids[-1])])]))

    def test_a_prompt_that_leaves_no_room_for_a_text_is_refused(self, folder, model, tmp_path):
        source = files.write(tmp_path / "a.txt", TEXTS[:5])
        taken = len(model.tokenizer.encode([model.prompts["query"]])[0].ids)
        with pytest.raises(InputError, match=f"max_tokens is {taken}, of which the prompt takes {taken}, expected more"):
            run_bulk(folder, [source], tmp_path / "out", prompt_name="query", max_tokens=taken)
        assert not (tmp_path / "out").exists()
        run_bulk(folder, [source], tmp_path / "out", prompt_name="query", max_tokens=taken + 1)
        assert array(vectors(tmp_path / "out")).std(axis=0).max() > 0.01

    def test_whole_numbers_of_numpy_are_whole_numbers(self, folder, model, tmp_path):
        source = files.write(tmp_path / "a.txt", TEXTS[:5])
        run_bulk(folder, [source], tmp_path / "out", dim=np.int64(32), max_tokens=np.uint16(2000))
        assert same(tmp_path / "out", model.encode(TEXTS[:5], dim=32))

    def test_the_manifest_has_what_anyone_needs_to_trust_it(self, folder, tmp_path):
        source = files.write(tmp_path / "a.txt", TEXTS)
        bulk("run", folder, source, "--out", tmp_path / "out", "--chunk-rows", 25)
        found = manifest(tmp_path / "out")
        assert {name.rpartition("/")[2]: entry["sha256"] for name, entry in found["files"].items()} == part_hashes(
            tmp_path / "out"
        )
        assert (found["rows"], found["embedded"], found["quarantined"], found["skipped"]) == (60, 60, 0, [])
        assert found["job"]["model"]["quant"] == "fp32"
        assert (tmp_path / "out/_SUCCESS").read_text() == found["job_id"] + "\n"
        assert set(found["made_with"]) == {"q3-onnx", "numpy", "onnxruntime", "pyarrow", "tokenizers"}

    def test_json_says_what_came_out(self, folder, tmp_path):
        source = files.write(tmp_path / "a.txt", TEXTS)
        found = json.loads(bulk("run", folder, source, "--out", tmp_path / "out", "--json"))
        assert found["counts"] == {"rows": 60, "embedded": 60, "quarantined": 0, "non_finite": 0}
        assert found["tokens"] == sum(vectors(tmp_path / "out").column("n_tokens").to_pylist())


class TestRowsWithoutAVector:
    def test_each_is_in_the_quarantine_with_its_place_and_reason(self, folder, tmp_path):
        source = tmp_path / "a.jsonl"
        source.write_bytes(b'{"key": 1, "text": "a"}\n{"key": 2}\n{"text": "b"}\n{"key": 3, "text": "c"}\nno\n')
        said = bulk("run", folder, source, "--out", tmp_path / "out", "--id-column", "key", code=8)
        assert "5 rows = 2 embedded + 3 quarantined" in said
        assert vectors(tmp_path / "out").column("id").to_pylist() == [1, 3]
        assert vectors(tmp_path / "out").column("row").to_pylist() == [0, 3]
        assert lost(tmp_path / "out") == [
            {"row": 1, "source": str(source), "source_row": 1, "offset": 24, "reason": "no text"},
            {"row": 2, "source": str(source), "source_row": 2, "offset": 35, "reason": "no key"},
            {"row": 4, "source": str(source), "source_row": 4, "offset": 73, "reason": "not JSON (JSONDecodeError)"},
        ]
        assert bulk("verify", tmp_path / "out").startswith(f"{tmp_path / 'out'}: 5 rows = 2 embedded + 3 quarantined")

    def test_a_task_of_such_rows_alone_is_a_part_without_rows(self, folder, tmp_path):
        source = tmp_path / "a.jsonl"
        source.write_text('{"text": "a"}\n' + "no\n" * 5)
        bulk("run", folder, source, "--out", tmp_path / "out", "--chunk-rows", 2, code=8)
        assert [entry["rows"] for entry in manifest(tmp_path / "out")["files"].values()] == [1, 0, 0]

    def test_vectors_that_are_not_finite(self, folder, tmp_path):
        from tests.runtime.test_embedder import patch_weights

        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        with Embedder(folder) as whole:
            ids = whole.tokenizer.encode(["<|im_start|>"])[0].ids
        patch_weights(copy, "embed_tokens.weight", float("nan"), row=int(ids[0]))
        source = files.write(tmp_path / "a.txt", ["a", "b <|im_start|> c", "d"])
        outcome = run_bulk(copy, [source], tmp_path / "out")
        assert (outcome.counts.embedded, outcome.counts.quarantined, outcome.counts.non_finite) == (2, 1, 1)
        assert [row["reason"] for row in lost(tmp_path / "out")] == ["the vector is not finite"]
        with Embedder(folder) as whole:
            assert same(tmp_path / "out", whole.encode(["a", "d"]))
        many = files.write(tmp_path / "b.txt", ["a", "<|im_start|>", "<|im_start|> d"] * 10)
        with pytest.raises(FidelityError, match=r"20 of 30 vectors are not finite, expected 0\.1% at most") as caught:
            run_bulk(copy, [many], tmp_path / "out2")
        assert caught.value.exit_code == 4
        assert not (tmp_path / "out2/_SUCCESS").exists()

    def test_a_row_group_that_is_damaged_stops_the_run_or_is_lost_as_a_whole(self, folder, tmp_path):
        path = files.write_damaged(tmp_path / "a.parquet", TEXTS, 20, 25)
        said = bulk("run", folder, path, "--out", tmp_path / "out", code=3)
        assert f"{path}: unreadable: row group 1 (" in said
        assert said.count("error") == 1
        bulk("run", folder, path, "--out", tmp_path / "out", "--keep-going", code=8)
        assert [row["row"] for row in lost(tmp_path / "out")] == list(range(20, 40))


class TestWhichJobItIs:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"dim": 32}, "dim was 64, now 32"),
            ({"prompt_name": "query"}, 'prompt was "", now "Instruct: '),
            ({"precision": "int8"}, 'precision was "float32", now "int8"'),
            ({"max_tokens": 100}, "max_tokens was .*, now 100"),
            ({"chunk_rows": 10}, "chunk_rows was 4096, now 10"),
            ({"id_column": None}, 'id_column was "key", now null'),
        ],
    )
    def test_another_one_is_refused_with_what_differs(self, begun, folder, options, said):
        with pytest.raises(
            InputError, match=rf"another job was begun there: (model sha256 .*; )?{said}.*another --out"
        ) as caught:
            run_bulk(folder, [begun / "a.jsonl"], begun / "out", **({"id_column": "key"} | options))
        assert (caught.value.fault, caught.value.exit_code) == ("E_JOB_MISMATCH", 3)

    def test_another_model_is_refused(self, begun, mini_folder):
        with pytest.raises(InputError, match=r"model quant was .*; model sha256 was ") as caught:
            run_bulk(mini_folder, [begun / "a.jsonl"], begun / "out", id_column="key")
        assert caught.value.fault == "E_JOB_MISMATCH"

    def test_other_ranges_of_the_same_model_are_another_job_where_vectors_are_rounded_by_them(self, folder, tmp_path):
        other = Path(shutil.copytree(folder, tmp_path / "other"))
        content = json.loads((other / "q3.json").read_text())
        content["output_ranges"] = {end: [3 * value for value in row] for end, row in content["output_ranges"].items()}
        (other / "q3.json").write_text(json.dumps(content))
        source = files.write(tmp_path / "a.txt", TEXTS)
        for precision in ("int8", "float16"):
            out = tmp_path / precision
            run_bulk(folder, [source], out, precision=precision, num_shards=2, shard_index=0)
            if precision == "float16":
                assert run_bulk(other, [source], out, precision=precision, num_shards=2, shard_index=1).is_whole
                continue
            with pytest.raises(InputError, match=r"another job was begun there: model sha256 was "):
                run_bulk(other, [source], out, precision=precision, num_shards=2, shard_index=1)

    def test_more_files_are_refused(self, begun, folder, tmp_path):
        more = files.write(tmp_path / "b.jsonl", TEXTS[:2], key=[100, 101])
        with pytest.raises(InputError, match=r"input files differ .*: 1 new, 0 gone, the first .*b\.jsonl"):
            run_bulk(folder, [begun / "a.jsonl", more], begun / "out", id_column="key")

    def test_a_file_that_changed_is_refused_even_at_the_same_size(self, begun, folder):
        path = begun / "a.jsonl"
        before, stat = path.read_bytes(), path.stat()
        try:
            path.write_bytes(before.replace(b'"59: ', b'"95: '))
            with pytest.raises(InputError, match=r"a\.jsonl: changed since the job was begun") as caught:
                run_bulk(folder, [path], begun / "out", id_column="key")
            assert caught.value.fault == "E_INPUT_CHANGED"
        finally:
            path.write_bytes(before)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    @pytest.mark.parametrize("content", ["", "{", '{"schema_version": 1}', "\0"])
    def test_a_damaged_job_file_is_written_anew_and_the_parts_are_kept(self, begun, folder, content):
        times = {path: path.stat().st_mtime_ns for path in (begun / "out/parts").rglob("*.parquet")}
        (begun / "out/_q3_job.json").write_text(content)
        said = []
        outcome = run_bulk(folder, [begun / "a.jsonl"], begun / "out", id_column="key", say=said.append)
        assert (outcome.rows, outcome.counts.embedded) == (0, 60)
        assert any("damaged" in line and "set aside" in line for line in said)
        assert times == {path: path.stat().st_mtime_ns for path in (begun / "out/parts").rglob("*.parquet")}
        (begun / "out/_SUCCESS").unlink()

    def test_a_damaged_job_file_does_not_let_another_job_in(self, begun, folder):
        (begun / "out/_q3_job.json").write_text("{")
        with pytest.raises(InputError, match="dim was 64, now 32"):
            run_bulk(folder, [begun / "a.jsonl"], begun / "out", id_column="key", dim=32)
        run_bulk(folder, [begun / "a.jsonl"], begun / "out", id_column="key")
        (begun / "out/_SUCCESS").unlink()

    @pytest.mark.parametrize("name", ["_q3_tasks.parquet", "_q3_inputs.parquet"])
    @pytest.mark.parametrize("damage", ["gone", "cut"])
    def test_a_plan_that_is_gone_or_damaged_is_made_anew_and_the_parts_are_kept(self, begun, folder, name, damage):
        (begun / "out" / name).unlink() if damage == "gone" else os.truncate(begun / "out" / name, 100)
        outcome = run_bulk(folder, [begun / "a.jsonl"], begun / "out", id_column="key")
        assert (outcome.rows, outcome.counts.embedded) == (0, 60)
        (begun / "out/_SUCCESS").unlink()

    def test_a_job_of_a_newer_version_is_refused(self, begun, folder, tmp_path):
        out = Path(shutil.copytree(begun / "out", tmp_path / "out"))
        content = json.loads((out / "_q3_job.json").read_text())
        (out / "_q3_job.json").write_text(json.dumps(content | {"schema_version": 2, "more": 1}))
        with pytest.raises(InputError, match="schema_version 2, this q3-onnx reads up to 1; type: pip install -U q3-onnx"):
            run_bulk(folder, [begun / "a.jsonl"], out, id_column="key")

    def test_one_that_is_complete_is_not_done_again(self, folder, tmp_path):
        source = files.write(tmp_path / "a.txt", TEXTS[:5])
        run_bulk(folder, [source], tmp_path / "out")
        said = []
        outcome = run_bulk(folder, [source], tmp_path / "out", say=said.append)
        assert (outcome.rows, outcome.counts.embedded) == (0, 5)
        assert said == [f"{tmp_path / 'out'}: complete already"]


class TestWhatIsRefused:
    def test_a_folder_with_other_content(self, folder, tmp_path):
        source = files.write(tmp_path / "a.txt", TEXTS[:2])
        said = bulk("run", folder, source, "--out", tmp_path, code=3)
        assert f"error[E_EXISTS]: {tmp_path}: a folder with other content" in said

    def test_a_place_that_is_not_there(self, folder, tmp_path):
        source = files.write(tmp_path / "a.txt", TEXTS[:2])
        assert f"type: mkdir -p {tmp_path / 'no'}" in bulk("run", folder, source, "--out", tmp_path / "no/out", code=5)
        assert "a file, expected a folder" in bulk("run", folder, source, "--out", source, code=5)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"dim": 7}, InputError), ({"precision": "int4"}, UsageError), ({"prompt_name": "none"}, InputError),
            ({"max_tokens": 1}, InputError), ({"max_tokens": 10**9}, InputError), ({"chunk_rows": 0}, UsageError),
            ({"on_duplicate": "drop"}, UsageError), ({"engine": "spark"}, UsageError), ({"workers": 0}, UsageError),
            ({"shard_index": 2, "num_shards": 2}, UsageError), ({"shard_index": -1}, UsageError), ({"quant": "q4"}, UsageError),
            ({"address": "auto"}, UsageError), ({"threads": True}, UsageError), ({"id_column": "key"}, InputError),
            ({"text_column": "body"}, InputError),
        ],
    )  # fmt: skip
    def test_options_that_make_no_sense(self, options, error, folder, tmp_path):
        source = files.write(tmp_path / "a.csv", TEXTS[:2])
        with pytest.raises(error):
            run_bulk(folder, [source], tmp_path / "out", **options)

    def test_a_column_of_ids_that_is_not_there_is_named(self, folder, tmp_path):
        source = files.write(tmp_path / "a.jsonl", TEXTS[:2])
        said = bulk("run", folder, source, "--out", tmp_path / "out", "--id-column", "url", code=3)
        assert "none of its 2 rows can be embedded, the first: no url; pass --text-column or --id-column" in said

    @pytest.mark.parametrize("option", ["--instruction", "--text-column", "--id-column"])
    def test_names_and_instructions_that_are_not_utf_8(self, option, folder, tmp_path):
        source = files.write(tmp_path / "a.txt", TEXTS)
        assert "error: " in bulk("run", folder, source, "--out", tmp_path / "out", option, "caf\udce9", code=3)
        assert not (tmp_path / "out").exists()

    def test_input_of_which_all_lies_in_the_folder_of_the_job(self, folder, tmp_path):
        (tmp_path / "out/_leases").mkdir(parents=True)  # as an earlier run left it that failed before its plan
        source = files.write(tmp_path / "out/a.txt", TEXTS)
        assert "which is left out; give another --out" in bulk("run", folder, source, "--out", tmp_path / "out", code=3)

    def test_a_reranker(self, reranker_folder, tmp_path):
        with pytest.raises(ModelError, match="a reranker, expected an embedding model"):
            run_bulk(reranker_folder, [files.write(tmp_path / "a.txt", TEXTS[:2])], tmp_path / "out")

    def test_help_needs_no_pyarrow(self):
        code = "import sys\nfrom q3_runtime.cli import main\ntry: main(['bulk', 'run', '--help'])\n"
        code += "except SystemExit as end: assert not end.code\nassert not {'pyarrow', 'onnxruntime'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("kind", [str, Path])
def test_one_input_alone_is_one_input(kind, folder, tmp_path):
    """A str is a sequence too, of names of one letter."""
    source = files.write(tmp_path / "a.txt", TEXTS[:5])
    assert run_bulk(folder, kind(source), tmp_path / "out").counts.embedded == 5


def test_file_systems_without_links_between_folders_do(folder, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    source = files.write(tmp_path / "a.txt", TEXTS[:5])
    assert run_bulk(folder, [source], tmp_path / "out").counts.embedded == 5


def test_hashes_as_ids_lose_no_row(folder, tmp_path):
    keys = [(1 << 63) + row if row % 2 else row for row in range(20)]
    table = pa.table({"text": TEXTS[:20], "key": pa.array(keys, pa.uint64())})
    pq.write_table(table, tmp_path / "a.parquet")
    assert run_bulk(folder, [tmp_path / "a.parquet"], tmp_path / "out", id_column="key").is_whole
    assert vectors(tmp_path / "out").column("id").to_pylist() == list(map(str, keys))
