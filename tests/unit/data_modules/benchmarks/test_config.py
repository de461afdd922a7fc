"""Settings of the evaluation sets: values that are refused."""

from typing import Any

import pytest

from data_modules.benchmarks.config import ChoiceSetConfig, EvaluationConfig, RelationConfig, TableConfig, TermConfig


def test_evaluation_config__bad_interval() -> None:
    with pytest.raises(ValueError, match="every_n_steps = 0 must be at least 1"):
        EvaluationConfig(every_n_steps=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer_base": 2}, "answer_base = 2 must be in"),
        ({"template": "{question}"}, "must hold {option}"),
        ({"template": "{option} {other}"}, "and may hold {question}"),
        ({"question": None}, "alone, as there is no question"),
        ({"language": "fr"}, "must be ko or en"),
        ({"options": []}, "options is empty"),
    ],
)
def test_choice_set_config__bad_values(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"table": TableConfig(files=["a.parquet"]), "language": "ko", "options": ["options"]}
    with pytest.raises(ValueError, match=message):
        ChoiceSetConfig(**given | options)


def test_relation_config__changes_that_do_not_fit() -> None:
    man = TermConfig(parts=["m", "♂"], ko=["남자"], en=["man"])
    with pytest.raises(ValueError, match="changes names 'child'"):
        RelationConfig(terms={"man": man}, changes={"man": "child"})
    short = TermConfig(parts=["w"], ko=["여자"], en=["woman"])
    with pytest.raises(ValueError, match="as many parts"):
        RelationConfig(terms={"man": man, "woman": short}, changes={"man": "woman"})
    with pytest.raises(ValueError, match="parts is empty"):
        TermConfig(parts=[], ko=["여자"], en=["woman"])
