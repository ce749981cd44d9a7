"""Texts in files of many: where each lies, and what is wrong with the others."""

import csv
import io
import json
from pathlib import Path

import pytest

from pipelines.media.contract import BadSample
from pipelines.texts import text_files
from pipelines.texts.text_files import texts_in
from pipelines.texts.text_places import TextPlace
from pipelines.texts.text_tokens import text_of

Found = list[tuple[str | None, str]]


def read(path: Path, *columns: str) -> Found:
    """The name of each text and what it says, or why it says nothing."""
    data = path.read_bytes()
    found: Found = []
    for member in texts_in(str(path), len(data), columns):
        if member.problem:
            found.append((member.name, member.problem))
            continue
        try:
            part = data[member.offset : member.offset + member.length]
            found.append((member.name, text_of(part, TextPlace.named(member.name))))
        except BadSample as problem:
            found.append((member.name, str(problem.reason)))
    return found


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.fixture(params=[8 << 20, 1, 3, 7])
def by_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "PIECE_BYTES", request.param)


@pytest.mark.usefixtures("by_pieces")
def test_each_line_is_a_text_wherever_a_file_is_cut_to_be_read(tmp_path: Path) -> None:
    lines = "\ufeffone\r\n\n  zwei  drei \nÖl 日本\n \nlast".encode()
    assert read(write(tmp_path, "a.txt", lines)) == [
        ("line 1", "one"),
        ("line 2", "empty line"),
        ("line 3", "zwei drei"),
        ("line 4", "Öl 日本"),
        ("line 5", "empty line"),
        ("line 6", "last"),
    ]


def test_what_is_no_utf_8_is_told_line_by_line_and_utf_16_by_its_mark(tmp_path: Path) -> None:
    mixed = "caf\u00e9\n".encode("latin-1") + b"plain\n"
    assert read(write(tmp_path, "a.txt", mixed)) == [("line 1", "encoding"), ("line 2", "plain")]
    wide = write(tmp_path, "b.txt", "wide".encode("utf-16"))
    assert read(wide) == [(None, "no UTF-8 but UTF-16 (convert it)")]


def test_a_line_of_10_mb_is_a_place_like_any_other(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"a\n" + b"word " * 2_000_000 + b"\nz\n")
    found = list(texts_in(str(path), path.stat().st_size, ()))
    assert [member.length for member in found] == [1, 10_000_000, 1]


@pytest.mark.usefixtures("by_pieces")
def test_json_lines_give_the_field_and_say_what_they_lack(tmp_path: Path) -> None:
    rows = ['{"text": "hi\\nyou", "n": 1}', "{bad", "[1]", '{"sentence": "there"}', '{"text": 3}']
    path = write(tmp_path, "a.jsonl", "\n".join([*rows, '{"other": ""}', ""]))
    assert [what for _, what in read(path)] == [
        "hi you",
        "field",
        "field",
        "there",
        "field",
        "field",
    ]
    both = [json.dumps({"a": f"x{n}", "b": f"y{n}"}) for n in range(2)]
    path = write(tmp_path, "b.jsonl", "\n".join(both))
    assert read(path, "a", "b") == [
        ("object 1, a", "x0"),
        ("object 1, b", "y0"),
        ("object 2, a", "x1"),
        ("object 2, b", "y1"),
    ]


HARD = [
    ["plain", "a, b", "1"],
    ['He said "hi", and left', "two\nlines", "2"],
    ['"', '5" disk', "3"],
    ["", "ünï", "4"],
    ["a\r\nb", 'x""y', "5"],
]


@pytest.mark.usefixtures("by_pieces")
@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
def test_cells_of_tables_are_what_pythons_csv_reads(tmp_path: Path, name: str, mark: str) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=mark)
    writer.writerows([["sentence1", "sentence2", "score"], *HARD])
    path = write(tmp_path, name, "\ufeff" + file.getvalue())
    expected = [
        (f"row {number}, {column}", " ".join(cell.split()) or "empty cell")
        for number, row in enumerate(HARD, start=1)
        for column, cell in zip(("sentence1", "sentence2"), row, strict=False)
    ]
    assert read(path, "sentence1", "sentence2") == expected


def test_rows_that_lack_the_column_and_quotes_that_never_close_cost_themselves_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = 'id,text\n1\n2,"good"\n\n3,"open\n4,last\n'
    assert read(write(tmp_path, "a.csv", table)) == [
        ("row 1, text", "row without the column"),
        ("row 2, text", "good"),
        ("row 3", "empty line"),
        ("row 4", "row of more than 1 MiB (a quote that is not closed?)"),
        ("row 5, text", "last"),
    ]
    other = read(write(tmp_path, "b.csv", "id,words\n1,a\n"))
    assert other == [(None, "no such column (source.text_columns)")]
    assert read(write(tmp_path, "b.csv", "id,words\n1,a\n"), "words") == [("row 1, words", "a")]


def test_places_are_read_from_names_as_they_are_written() -> None:
    for place in (TextPlace("line", 3), TextPlace("object", 1, "a, b\n"), TextPlace("row", 9, "x")):
        assert TextPlace.named(place.name) == place
    assert TextPlace.named("folder/00012.txt") == TextPlace("line", 1)
