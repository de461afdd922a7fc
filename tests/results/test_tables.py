"""Every number of the documents' result tables is in the CSV files of docs/results."""

from pathlib import Path

import pytest

from tests.results import lookups, tables
from tests.results.tables import DOCUMENTS, TEMPLATES, blocks_of, literal_digits, render

BLOCKS = [(document, name, text) for document in DOCUMENTS for name, text in blocks_of(document)]


def test_documents__have_every_table_once() -> None:
    assert sorted(name for _, name, _ in BLOCKS) == sorted(
        file.name.removesuffix(".md.jinja") for file in TEMPLATES.iterdir()
    )


@pytest.mark.parametrize(("document", "name", "text"), BLOCKS, ids=[name for _, name, _ in BLOCKS])
def test_table__is_that_of_the_files(document: Path, name: str, text: str) -> None:
    assert text == render(name), f"{document.name} differs; python -m tests.results.tables writes it"


@pytest.mark.parametrize("name", [name for _, name, _ in BLOCKS])
def test_template__states_no_number_itself(name: str) -> None:
    assert literal_digits(name) == []


def test_render__refuses_what_no_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "TEMPLATES", tmp_path)
    monkeypatch.setattr(lookups, "RESULTS", tmp_path)
    (folder := tmp_path / "ablations" / "own").mkdir(parents=True)
    (folder / "results.csv").write_text(
        "metric,items,variant,mean,low\neval/a/image_to_text_R@1,all,one,0.1234,\neval/a/image_to_text_R@1,red,one,0.5,0.4\n"
    )
    template = tmp_path / "own.md.jinja"
    template.write_text('{{ study("own", "a/image_to_text_R@1", "one", "mean") | percent }} of 100 by `x 5` R@1\n')
    assert render("own") == "12.3 of 100 by `x 5` R@1\n"
    assert literal_digits("own") == ["100"]
    for words in ('"two", "mean"', '"one", "low"', '"one", "other"'):
        template.write_text(f'{{{{ study("own", "a/image_to_text_R@1", {words}) }}}}')
        with pytest.raises(LookupError, match=r"results\.csv has (0 rows|no low|no other)"):
            render("own")
