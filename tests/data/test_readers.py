"""Every reader gives back what was written, and names file and row when it cannot."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.config.schema import SourceConfig
from plaudit.data.readers import read
from plaudit.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"prompt": "q1 \u2028 line", "completion": 'a "quoted", 1\nnext'},
    {"prompt": "frage ä", "completion": "漢字 🙂"},
    {"prompt": "q3", "completion": "a3"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.parquet", "r.csv", "folder"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    found = read(str(path))
    assert found.rows == list(enumerate(ROWS, start=1))
    assert found.name == str(path)
    limited = read(SourceConfig(path=str(path), limit=2, weight=0.5, columns={"prompt": "completion"}))
    assert limited.rows == found.rows[:2]
    assert (limited.weight, limited.columns) == (0.5, {"prompt": "completion"})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.fixed_dictionaries({"prompt": st.text(), "n": st.integers(-(2**40), 2**40)}), max_size=5))
def test_jsonl_round_trip_of_any_text(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("any") / "r.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    assert [row for _, row in read(str(path)).rows] == rows


def test_memory() -> None:
    assert read(ROWS).rows == list(enumerate(ROWS, start=1))
    assert read(ROWS).name == "<rows>"
    dataset = datasets.Dataset.from_list(ROWS)
    assert read(dataset, position=2).rows == list(enumerate(ROWS, start=1))
    assert read(dataset, position=2).name == "<rows 2>"


def test_jsonl_keeps_line_numbers_and_takes_bom_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": 2}')
    assert read(str(path)).rows == [(1, {"a": 1}), (4, {"a": 2})]


def test_json_file_with_lines_is_read_as_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert read(str(path)).rows == [(1, {"a": 1}), (2, {"a": 2})]


def test_csv_cells_with_json_and_bom(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('\ufeffmessages,note\n"[{""role"": ""user""}]",[not json\n', encoding="utf-8")
    assert read(str(path)).rows == [(1, {"messages": [{"role": "user"}], "note": "[not json"})]


@pytest.mark.parametrize("first", ["", "#"])
def test_csv_with_numbered_rows(tmp_path: Path, first: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(f"{first},a\n0,x\n", encoding="utf-8")  # as pandas writes it
    assert read(str(path)).rows == [(1, {first: "0", "a": "x"})]


def test_split_of_a_saved_dict(tmp_path: Path) -> None:
    folder = tmp_path / "dict"
    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    ).save_to_disk(folder)
    assert read(f"{folder}:test").rows == [(1, ROWS[0])]
    for path, part in ((str(folder), "several splits"), (f"{folder}:dev", "no split 'dev'")):
        with pytest.raises(DataError, match=part) as error:
            read(path)
        assert f"{folder}:train" in str(error.value)


def test_bad_lines_are_collected_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = [b'{"a": 1}', b"{bad", b"[1]", b'{"a": "\xff"}', *[b"x"] * 20, b'{"a": 1}', b'{"prompt": "cut o']
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError) as error:
        read(str(path))
    message = str(error.value)
    assert "[PL202] 24 of 26 lines" in message
    for part in (f"{path}:2  is not valid JSON", f"{path}:3  is a JSON list", f"{path}:4  is not UTF-8", "mend:"):
        assert part in message
    assert message.count(f"  {path}:") == 10


def test_a_half_written_last_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"a": 1}\n{"a": 2, "b": "half')
    with pytest.raises(DataError, match=r"r\.jsonl:2  .*cut off while it was written"):
        read(str(path))


BROKEN = [
    ("r.jsonl", b'{"a": 1}\n{"a": \r\n', "PL202", "r.jsonl:2  is not valid JSON at column 6: Expecting value"),
    ("r.json", b'[{"a": 1},\n{"a": }]', "PL202", "r.json:2"),
    ("r.json", b'{"a": 1}', "PL202", "must be a list of objects"),
    ("r.json", b"[1]", "PL202", "r.json:1"),
    ("r.json", b"\xff\xfe", "PL202", "not UTF-8"),
    ("r.csv", b"", "PL202", "no header"),
    ("r.csv", b"a,a\n1,2\n", "PL202", "names the column 'a' twice"),
    ("r.csv", b"a,,\n1,2,3\n", "PL202", "2 columns have no name"),
    (
        "r.csv",
        b"# version=1.2\na,b\n1,2\n",
        "PL202",
        "the first line is a comment, must name the columns: # version=1.2",
    ),
    ("r.csv", b"# version=1,x=2,\na,b,c\n", "PL202", "remove it: tail -n +2"),
    ("r.csv", b"a,b\n1,2\n1,2,3\n1\n", "PL202", "r.csv:2  (line 3) 3 cells for 2 columns"),
    ("r.csv", b'a,b\n1,"2\n', "PL202", "not valid CSV"),
    ("r.csv", b"a,b\n1,\xff\n", "PL202", "not UTF-8"),
    ("r.parquet", b"no parquet", "PL201", "not readable as Parquet"),
    ("r.xlsx", b"", "PL209", "use one of .jsonl, .json, .parquet, .csv"),
]


@pytest.mark.parametrize(("name", "content", "code", "part"), BROKEN)
def test_broken_files(tmp_path: Path, name: str, content: bytes, code: str, part: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read(str(path))
    assert error.value.code == code
    assert part in str(error.value)
    assert str(path) in str(error.value)


def test_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(DataError, match=r"PL201") as error:
        read(str(tmp_path / "trian.jsonl"))
    assert f"did you mean {tmp_path / 'train.jsonl'}" in str(error.value)
    with pytest.raises(DataError, match="the last folder that exists is"):
        read(str(tmp_path / "no" / "such" / "folder"))


def test_folder_that_is_no_dataset_names_its_files(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(DataError, match=r"(?s)PL209.*a\.jsonl"):
        read(str(tmp_path))


def test_streaming_is_refused_by_name() -> None:
    stream = datasets.Dataset.from_list(ROWS).to_iterable_dataset()
    with pytest.raises(DataError, match=r"(?s)PL209.*IterableDataset.*streaming=True"):
        read(stream)


@pytest.mark.parametrize("value", [5, {"a": 1}, (r for r in ROWS)])
def test_other_objects_are_refused(value: Any) -> None:
    with pytest.raises(DataError, match="PL209"):
        read(value)


def test_hub_id_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"(?s)PL210.*somebody/preferences:train"):
        read("somebody/preferences:train")


def test_a_frame_or_several_splits_in_memory_say_what_to_hand_over() -> None:

    rows = [{"prompt": "a", "completion": "b"}]
    with pytest.raises(DataError, match=r"PL209.*\n.*\n.*df.to_dict") as caught:
        read(pd.DataFrame(rows))
    assert caught.value.code == "PL209"
    one = datasets.Dataset.from_list(rows)
    assert len(read(datasets.DatasetDict(train=one)).rows) == 1
    with pytest.raises(DataError, match=r"dataset\['train'\], dataset\['test'\]"):
        read(datasets.DatasetDict(train=one, test=one))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_files_that_gzip_has_packed(tmp_path: Path, name: str) -> None:
    """Rows, and their numbers in errors, are those of the file inside."""
    rows = [
        {"prompt": "Für wen?", "chosen": 'a, "b"\nc', "rejected": "d"},
        {"prompt": "p", "chosen": "q", "rejected": "r"},
    ]
    text = {
        ".jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        ".json": json.dumps(rows),
        ".csv": "prompt,chosen,rejected\n" + 'Für wen?,"a, ""b""\nc",d\np,q,r\n',
    }[Path(name).suffix]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode("utf-8-sig")))
    found = read(str(tmp_path / f"{name}.gz"))
    assert [row for _, row in found.rows] == rows
    (tmp_path / "bad.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "p"}\n{"prompt":\n'))
    with pytest.raises(DataError, match=r"bad\.jsonl\.gz:2  is not valid JSON"):
        read(str(tmp_path / "bad.jsonl.gz"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_no_file_that_is_missing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="a pipe or a device") as error:
        read(str(tmp_path / "pipe.jsonl"))
    assert error.value.code == "PL201"
