"""pipelines.labels.label_tables: every way to write a table of labels, and every way to get it
wrong."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.labels import label_tables
from pipelines.labels.label_tables import Columns, Record, read_class_names, read_label_table

TEXT = "uri,label,split,group\na/1.jpg,cat,train,p1\nb/2.jpg,dog,testing,p2\n"
RECORDS = [Record("a/1.jpg", ("cat",), "train", "p1"), Record("b/2.jpg", ("dog",), "test", "p2")]


def records(path: Path, **columns: str) -> list[Record]:
    return read_label_table(str(path), Columns.model_validate(columns)).records


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_csv_reads_alike_in_every_encoding_and_delimiter(
    tmp_path: Path, encoding: str, mark: str
) -> None:
    text = f"\r\n{TEXT.replace(',', mark)}\r\n\r\n"
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert records(tmp_path / "t.csv") == RECORDS


def test_jsonl_and_parquet_read_as_csv_does(tmp_path: Path) -> None:
    rows = [
        dict(zip(TEXT.split("\n")[0].split(","), line.split(","), strict=True))
        for line in TEXT.strip().split("\n")[1:]
    ]
    (tmp_path / "t.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert records(tmp_path / "t.jsonl") == records(tmp_path / "t.parquet") == RECORDS


def test_labels_may_be_numbers_lists_or_several_in_a_text(tmp_path: Path) -> None:
    rows = [
        {"file": "1", "label": 3},
        {"file": "2", "label": 4.0},
        {"file": "3", "label": [1, "b"]},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [one.labels for one in records(tmp_path / "t.jsonl")] == [("3",), ("4",), ("1", "b")]
    (tmp_path / "t.csv").write_text('file,label\n1,cat | dog|cat\n2,"a,b"\n')
    assert [one.labels for one in records(tmp_path / "t.csv")] == [("cat", "dog"), ("a,b",)]
    assert records(tmp_path / "t.csv", separator="none")[0].labels == ("cat | dog|cat",)
    assert records(tmp_path / "t.csv", separator="comma")[1].labels == ("a", "b")


def test_names_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("uri,label\n1,mu\u0308ll\n2,m\u00fcll\n", encoding="utf-8")
    assert {one.labels for one in records(tmp_path / "t.csv")} == {("m\u00fcll",)}


def test_rows_that_say_nothing_are_counted_and_named(tmp_path: Path) -> None:
    lines = ["1.jpg,cat,", "1.jpg,cat,", ",cat,", "2.jpg,,", "3.jpg,cat,other", "4.jpg,cat"]
    lines += ["5.jpg,cat,", "5.jpg,dog,", "6.jpg,cat,val"]
    (tmp_path / "t.csv").write_text("uri,label,split\n" + "\n".join(lines))
    table = read_label_table(str(tmp_path / "t.csv"), Columns())
    assert [one.uri for one in table.records] == ["1.jpg", "6.jpg"]
    assert table.left_out.names == {
        label_tables.AGAIN: ["1.jpg"],
        label_tables.NO_URI: ["row 3"],
        label_tables.NO_LABEL: ["2.jpg"],
        label_tables.ODD_SPLIT: ["3.jpg"],
        label_tables.UNEVEN: ["line 7"],
        label_tables.CONFLICT: ["5.jpg"],
    }
    (tmp_path / "t.jsonl").write_text('{"uri": "1", "label": "a"}\n{broken\n\n[1]\n')
    table = read_label_table(str(tmp_path / "t.jsonl"), Columns())
    assert len(table.records) == 1
    assert table.left_out.names == {label_tables.NO_OBJECT: ["line 2", "line 4"]}


def test_rows_of_one_file_are_compared_however_they_spell_its_place(tmp_path: Path) -> None:
    rows = ["a.jpg,cat,m/a.png", "./a.jpg,dog,", "b.jpg,cat,m/b.png", "x/../b.jpg,cat,./m/b.png"]
    rows += [f"{tmp_path}/c.jpg,cat,", "c.jpg,dog,", "mu\u0308.jpg,cat,", "m\u00fc.jpg,dog,"]
    (tmp_path / "t.csv").write_text("uri,label,mask\n" + "\n".join(rows), encoding="utf-8")
    table = read_label_table(str(tmp_path / "t.csv"), Columns())
    assert [one.uri for one in table.records] == ["b.jpg"]
    conflicts = ["a.jpg", f"{tmp_path}/c.jpg", "mu\u0308.jpg"]
    assert table.left_out.names == {
        label_tables.AGAIN: ["x/../b.jpg"],
        label_tables.CONFLICT: conflicts,
    }
    assert label_tables.place_of("../y.jpg", "s3://bucket/a/t.csv") == "s3://bucket/y.jpg"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"uri,label\n1,m\xfcll\n", r"is not utf-8 \(line 2\).*columns\.encoding"),
        ("t.csv", b"1.jpg,cat\n", r"no column uri or file or path \(it has 1\.jpg, cat\)"),
        ("t.csv", b"uri,name\n1,2\n", r"no column label or labels .*columns\.label"),
        ("t.csv", b"uri,Mask\n1,2\n", r"columns\.label, or give columns\.mask=Mask to judge"),
        ("t.csv", b"", r"no column uri .*\(it has none\)"),
        ("t.csv", b'uri,label\n"1.jpg,cat\n', r"is no CSV \(line 2"),
        ("t.csv", b"uri,label,label\n1,2,3\n", "two columns 'label'"),
        ("t.parquet", b"nothing", "is no Parquet file"),
    ],
)
def test_a_table_that_cannot_be_read_says_what_to_do(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        records(tmp_path / name)


def test_columns_are_taken_by_the_names_given(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("File,breed,patient,mask\n1.jpg,cat,p,m.png\n")
    found = records(tmp_path / "t.csv", label="breed", group="patient")
    assert found == [Record("1.jpg", ("cat",), None, "p", "m.png")]
    with pytest.raises(ValueError, match=r"no column kind .*columns\.label"):
        records(tmp_path / "t.csv", label="kind")


def test_class_names_of_masks_are_read_by_index(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("index,name\n0,sky\n7,road\n")
    assert read_class_names(str(tmp_path / "c.csv")) == {0: "sky", 7: "road"}
    (tmp_path / "c.csv").write_text("sky\nroad\n")
    with pytest.raises(ValueError, match="columns index and name"):
        read_class_names(str(tmp_path / "c.csv"))
