"""Reading YAML files and overrides, and loading experiments from them."""

from pathlib import Path
from typing import Any

import pytest

from kelip_lightning.config.experiment import (
    SCHEMAS,
    ContrastiveExperiment,
    EvaluationExperiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.config.load import (
    find_schema,
    load_experiment,
    merge,
    parse_override,
    read_experiment_file,
    to_yaml,
)
from kelip_lightning.errors import ConfigError
from kelip_lightning.models.config import Pooling
from tests.paths import ROOT


def load(folder: Path, *overrides: str) -> PretrainExperiment:
    return load_experiment(folder / "pretrain.yaml", overrides, PretrainExperiment).experiment


def problems(folder: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, *overrides)
    return caught.value.problems


def test_load_experiment__three_mistakes_three_sentences(experiments: Path) -> None:
    found = problems(
        experiments,
        "contrastive.image_encoder.dept=2",
        "mae.schedule.max_steps=ten",
        "contrastive.trainer.accumulate=3",
    )
    assert found == [
        "mae.schedule.max_steps = 'ten' must be a whole number",
        "contrastive.image_encoder.dept is not a known key; did you mean contrastive.image_encoder.depth?",
        "contrastive.data.global_batch_size = 8 must be a multiple of trainer.devices x num_nodes x accumulate = "
        "1 x 1 x 3; use 6 or 9",
    ]


def test_load_experiment__overrides_reach_every_stage_that_has_the_key(experiments: Path) -> None:
    experiment = load(experiments, "seed=3", "trainer.precision=32", "transform.num_local_crops=0", "mae.seed=4")
    assert experiment.mae is not None
    assert (experiment.mae.seed, experiment.contrastive.seed) == (4, 3)
    assert experiment.mae.trainer.precision == experiment.contrastive.trainer.precision == "32"
    assert experiment.contrastive.transform.num_local_crops == 0


def test_load_experiment__later_overrides_win(experiments: Path) -> None:
    assert load(experiments, "contrastive.seed=2", "seed=1").contrastive.seed == 1


def test_load_experiment__unknown_in_every_stage(experiments: Path) -> None:
    assert problems(experiments, "optimizr.eps=1") == [
        "optimizr is not a known key; the keys here are name, output_dir, mae, contrastive"
    ]
    assert problems(experiments, "image_encoder.dept=1")[0].startswith("mae.image_encoder.dept is not a known key")
    assert "did you mean mae.schedule.max_steps" in problems(experiments, "max_steps=3")[0]


def test_load_experiment__name_and_output_dir_are_the_run_s(experiments: Path) -> None:
    experiment = load(experiments, "name=other", "output_dir=elsewhere")
    assert experiment.mae is not None
    for stage in (experiment, experiment.mae, experiment.contrastive):
        assert (stage.name, stage.output_dir) == ("other", "elsewhere")
    assert load(experiments).contrastive.output_dir == "runs"
    assert "both stages share one name" in problems(experiments, "contrastive.name=x")[0]


def test_load_experiment__mae_switched_off(experiments: Path) -> None:
    assert load(experiments, "mae=null", "seed=1").mae is None
    for order in (("mae=null", "masked_autoencoder.mask_ratio=0.5"), ("masked_autoencoder.mask_ratio=0.5", "mae=null")):
        assert "which is switched off" in problems(experiments, *order)[0]


def test_load_experiment__malformed_overrides_are_reported_with_the_rest(experiments: Path) -> None:
    assert len(problems(experiments, "seed", "mae.seed=-1")) == 2


@pytest.mark.parametrize(
    "overrides", [(), ("mae=null", "name=1e3", "image_encoder.pooling=mean", "optimizer.eps=1e-7")]
)
def test_load_experiment__resolved_yaml_loads_to_the_same(experiments: Path, overrides: tuple[str, ...]) -> None:
    first = load_experiment(experiments / "pretrain.yaml", overrides, PretrainExperiment)
    again = experiments / "again.yaml"
    again.write_text(first.resolved, encoding="utf-8")
    assert "!!python" not in first.resolved
    second = load_experiment(again, [], PretrainExperiment)
    assert second.experiment == first.experiment
    assert second.resolved == first.resolved
    assert second.base_diff == []


def test_load_experiment__enum_by_name(experiments: Path) -> None:
    assert load(experiments, "image_encoder.pooling=mean").contrastive.image_encoder.pooling is Pooling.mean
    assert "must be one of cls, mean" in problems(experiments, "image_encoder.pooling=max")[0]


def test_load_experiment__base_diff(experiments: Path) -> None:
    def diff(*overrides: str) -> list[str]:
        return load_experiment(experiments / "pretrain.yaml", overrides, PretrainExperiment).base_diff

    assert diff("seed=1") == [
        "name: (absent) -> chain",
        "mae.seed: 0 -> 1",
        "contrastive.seed: 0 -> 1",
    ]
    assert "mae: (section) -> null" in diff("mae=null")
    alone = load_experiment(experiments / "base.yaml", ["transform.image_size=32"], MaskedPretrainExperiment)
    assert alone.base_diff == ["transform.image_size: 224 -> 32"]


def test_load_experiment__entry_of_a_base_removed(experiments: Path) -> None:
    extra = f"data.sources.two={{files: [{experiments / 'pairs.parquet'}], captions: {{ko: ko}}}}"
    experiment = load(experiments, extra, "data.sources.one=null")
    assert list(experiment.contrastive.data.sources) == ["two"]


def test_find_schema(experiments: Path) -> None:
    (experiments / "sets.yaml").write_text("evaluation: {every_n_steps: 3}\n", encoding="utf-8")
    expected = {
        "pretrain": PretrainExperiment,
        "contrastive": ContrastiveExperiment,
        "mae": MaskedPretrainExperiment,
        "sets": EvaluationExperiment,
    }
    for name, schema in expected.items():
        assert find_schema(experiments / f"{name}.yaml", SCHEMAS) is schema


def write(folder: Path, **files: str) -> Path:
    """Write NAME.yaml files; returns the first."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.yaml"


def problem_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_experiment_file(path)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_read_experiment_file__extends_in_a_chain_and_in_a_section(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        top="extends: middle.yaml\na: 3\nstage:\n  extends: stage.yaml\n  x: 2\n",
        middle="extends: bottom.yaml\nb: 2\n",
        bottom="a: 1\nb: 1\nc: {d: 1, e: 1}\n",
        stage="x: 1\ny: [1, 2]\n",
    )
    tree, inherited = read_experiment_file(file)
    assert tree == {"a": 3, "b": 2, "c": {"d": 1, "e": 1}, "stage": {"x": 2, "y": [1, 2]}}
    assert inherited == {"a": 1, "b": 2, "c": {"d": 1, "e": 1}, "stage": {"x": 1, "y": [1, 2]}}


def test_read_experiment_file__circle(tmp_path: Path) -> None:
    file = write(tmp_path, one="extends: two.yaml\n", two="extends: one.yaml\n")
    assert "circle (one.yaml -> two.yaml -> one.yaml)" in problem_of(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "line 2: found duplicate key"),
        ("a: [1, 2\nb: 3\n", "line 2"),
        ("- 1\n- 2\n", "must hold a mapping"),
        ("a: ${nowhere}\n", "nowhere"),
        ("extends: [x]\n", "must be the path of one YAML file"),
        ("extends: bade.yaml\n", "does not exist; did you mean"),
    ],
)
def test_read_experiment_file__names_file_and_place(tmp_path: Path, text: str, expected: str) -> None:
    file = write(tmp_path, bad=text)
    problem = problem_of(file)
    assert problem.startswith(str(file))
    assert expected in problem
    assert "\n" not in problem


def test_read_experiment_file__missing_file_with_similar_name(tmp_path: Path) -> None:
    write(tmp_path, pretrain="a: 1\n")
    assert f"did you mean {tmp_path / 'pretrain.yaml'}?" in problem_of(tmp_path / "pretran.yaml")
    assert "is a folder" in problem_of(tmp_path)


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ("seed=1", ["seed"], 1),
        ("a.b=3e-4", ["a", "b"], 3e-4),
        ("a=null", ["a"], None),
        ("a=[x, 사과]", ["a"], ["x", "사과"]),
        ("a={b: true}", ["a"], {"b": True}),
        ("file=a=b.yaml", ["file"], "a=b.yaml"),
    ],
)
def test_parse_override(text: str, keys: list[str], value: object) -> None:
    assert parse_override(text) == (keys, value)


@pytest.mark.parametrize("text", ["seed", "=1", "a..b=1", "a[0]=1", "a=[1", "--seed=1 "[2:-1].replace("=", " ")])
def test_parse_override__malformed(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_override(text)


def test_merge__replaces_lists_and_leaves_its_arguments_alone() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    merged = merge(base, {"a": {"c": [3]}, "d": {"e": 1}})
    assert merged == {"a": {"b": 1, "c": [3]}, "d": {"e": 1}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": None}


def test_to_yaml__strings_that_look_like_numbers_come_back_as_strings(tmp_path: Path) -> None:
    tree = {"a": "1e3", "b": "007", "c": "true", "d": "사과", "e": 1e-5, "f": None, "g": ["1", 1]}
    file = write(tmp_path, one=to_yaml(tree))
    assert read_experiment_file(file)[0] == tree


@pytest.mark.parametrize(
    ("file", "schema", "use"),
    [
        ("contrastive", PretrainExperiment, "contrastive training alone, for `kelip contrastive`"),
        ("mae", PretrainExperiment, "MAE pre-training alone, for `kelip mae`"),
        ("pretrain", ContrastiveExperiment, "has both stages, for `kelip pretrain`"),
        ("pretrain", MaskedPretrainExperiment, "has both stages, for `kelip pretrain`"),
        ("contrastive", MaskedPretrainExperiment, "for `kelip contrastive`"),
        ("mae", ContrastiveExperiment, "for `kelip mae`"),
    ],
)
def test_load_experiment__a_file_of_another_verb_is_one_sentence(file: str, schema: type[Any], use: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(ROOT / "experiments" / "emoji" / f"{file}.yaml", ["schema.x=1"], schema)
    (problem,) = caught.value.problems
    assert use in problem
