"""The documentation's tables are those of the recorded results."""

import documents
import pytest

DOCUMENTS = [documents.ROOT / "README.md", *sorted((documents.ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_those_of_the_results(path):
    text = path.read_text(encoding="utf-8")
    assert documents.rewritten(text) == text, "run python benchmarks/documents.py"


def test_every_table_stands_in_one_document():
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert {n: text.count(f"<!-- table {n} -->") for n in documents.TABLES} == dict.fromkeys(
        documents.TABLES, 1
    )


def test_a_changed_figure_is_noticed():
    text = (documents.ROOT / "README.md").read_text(encoding="utf-8")
    figure = f"{documents.load('demo')['result']['pruned']['accuracy']:.2f}"
    assert documents.rewritten(text.replace(figure, "99.99")) == text
