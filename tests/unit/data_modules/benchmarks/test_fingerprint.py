"""The fingerprints of evaluation sets: which of them a change of a file concerns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_modules.benchmarks.evaluation_sets import (
    CaptionSetConfig,
    ClassificationSetConfig,
    EvaluationConfig,
    RetrievalSetConfig,
    TableConfig,
    evaluation_fingerprints,
)

Rows = list[dict[str, Any]]
CAPTIONS = {"ko": "name_ko", "en": "name_en"}


def test_evaluation_fingerprints__tell_which_sets_changed(
    rows: Rows, write_table: Callable[[Rows, str], str], tmp_path: Path
) -> None:
    table = TableConfig(files=[write_table(rows, "a.parquet")], captions=CAPTIONS)
    other = TableConfig(files=[write_table(rows, "other.parquet")], captions=CAPTIONS)
    classes = tmp_path / "classes.yaml"
    classes.write_text("classes: {round: {ko: [둥근], en: [round]}}\n", encoding="utf-8")
    config = EvaluationConfig(
        retrieval={"known": RetrievalSetConfig(table=table)},
        captions={"captions": CaptionSetConfig(table=other)},
        classification={"groups": ClassificationSetConfig(table=table, label="design", classes_file=str(classes))},
    )
    before = evaluation_fingerprints(config)
    assert {name: [file.name for file in files] for name, files in before.items()} == {
        "retrieval.known": ["a.parquet"],
        "captions.captions": ["other.parquet"],
        "classification.groups": ["a.parquet", "classes.yaml"],
    }

    def changed() -> list[str]:
        return [name for name, files in evaluation_fingerprints(config).items() if before[name] != files]

    assert changed() == []
    write_table([*rows, rows[0]], "other.parquet")
    assert changed() == ["captions.captions"]
    write_table(rows, "other.parquet")
    classes.write_text("classes: {round: {ko: [동그란], en: [round]}}\n", encoding="utf-8")
    assert changed() == ["classification.groups"]
