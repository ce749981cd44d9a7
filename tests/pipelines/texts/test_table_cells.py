"""Tables of texts with labels, and of pairs with scores: cells by their places."""

from pathlib import Path

import pytest

from pipelines import schema
from pipelines.labels.label_tables import Columns
from pipelines.labels.labelled_source import read_source
from pipelines.texts.scored_pairs import NO_PAIR, NO_SCORE, read_pairs

PAIRS = (
    "sentence1,sentence2,score\n"
    'a man,"a man, again",5.0\n'
    "a dog,a cat,\n"
    ",nobody,1\n"
    "a bird,a plane,much\n"
    'deux,"zwei","2,5"\n'
)


def test_pairs_are_the_first_texts_and_then_the_second_ones(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(PAIRS)
    pairs = read_pairs(str(table), "sentence1", "sentence2", "score")
    data = table.read_bytes()
    said = [
        data[row[schema.OFFSET] : row[schema.OFFSET] + row[schema.LENGTH]].decode()
        for row in pairs.texts.to_pylist()
    ]
    assert said == ["a man", "deux", '"a man, again"', '"zwei"']
    assert pairs.scores.tolist() == [5.0, 2.5]
    assert pairs.texts[schema.ROW].to_pylist() == [0, 1, 0, 1]
    assert pairs.left_out.counts == {"empty cell": 2, NO_PAIR: 2, NO_SCORE: 1}


def test_a_table_without_the_columns_is_refused_with_those_it_has(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"no column sentence1, .* it has a, b: .*test\.first"):
        read_pairs(str(table), "sentence1", "sentence2", "score")
    with pytest.raises(ValueError, match=r"must be a table: \.csv or \.tsv"):
        read_pairs(str(tmp_path / "pairs.json"), "a", "b", "c")


def test_labelled_texts_are_rows_of_a_table(tmp_path: Path) -> None:
    table = tmp_path / "train.tsv"
    table.write_text(
        "words\tkind\tsplit\nhow are you\tquestion\ttrain\nfine\tanswer\ttest\nwell\t\ttrain\n"
        "\tanswer\ttrain\nso\tanswer\tsometimes\n"
    )
    columns = Columns(text="words", label="kind", split="split")
    found = read_source(str(table), columns, "class")
    assert found.rows[schema.LABELS].to_pylist() == [["question"], ["answer"]]
    assert found.rows[schema.SPLIT].to_pylist() == ["train", "test"]
    assert found.rows[schema.MEDIA].to_pylist() == ["text"] * 2
    assert found.names == ["row 1", "row 2"]
    assert found.left_out.counts.total() == 5  # two empty cells, and the rows of these and another
