"""From a study file to its planned runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kelip_lightning.ablations.study import Choice, Study, open_study
from kelip_lightning.errors import ConfigError
from kelip_lightning.planning.flops import operations_per_sample, training_operations
from kelip_lightning.planning.stage_plan import stages_of


def test_open_study__every_variant_with_every_seed(study: Study) -> None:
    assert [(run.variant, run.seed) for run in study.runs] == [
        (variant, seed) for variant in ("plain", "longer", "warm") for seed in range(3)
    ]
    assert {run.experiment.contrastive.seed for run in study.runs if run.variant == "warm"} == {0, 1, 2}
    longer = next(run for run in study.runs if run.variant == "longer")
    assert longer.differences == ["mae: (section) -> null", "contrastive.schedule.max_steps: 800 -> 1600"]
    assert longer.plan.stages["contrastive"].max_steps == 1600


def test_open_study__same_settings_same_run_whatever_the_study(study: Study, study_file: Path, tmp_path: Path) -> None:
    renamed = yaml.safe_load(study_file.read_text(encoding="utf-8"))
    renamed["variants"]["base"] = renamed["variants"].pop("plain")
    renamed["reference"] = "base"
    other_file = tmp_path / "other.yaml"
    other_file.write_text(yaml.safe_dump(renamed), encoding="utf-8")
    other = open_study(other_file, Choice(seeds=2, output=study.output), on_this_machine=False)
    assert [run.fingerprint for run in other.runs[:2]] == [run.fingerprint for run in study.runs[:2]]
    assert other.pool == study.pool and other.folder != study.folder


def _changed(study_file: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    tree = yaml.safe_load(study_file.read_text(encoding="utf-8"))
    change(tree)
    study_file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return study_file


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            lambda tree: tree["variants"].update(
                bad={"about": "a", "overrides": ["contrastive.sed=1"]},
                worse={"about": "b", "overrides": ["contrastive.data.global_batch_size=0"]},
            ),
            [
                "variant bad: contrastive.sed is not a known key",
                "variant worse: contrastive.data.global_batch_size = 0",
            ],
        ),
        (
            lambda tree: tree["variants"].update(twin={"about": "a", "overrides": ["trainer.num_threads=3"]}),
            ["variants plain and twin train the same"],
        ),
        (
            lambda tree: tree["variants"].update(
                often={"about": "a", "overrides": ["trainer.log_every_n_steps=3"]},
                elsewhere={"about": "b", "overrides": ["contrastive.evaluation.retrieval.flags=null"]},
                lucky={"about": "c", "overrides": ["contrastive.seed=7"]},
            ),
            [
                "variant often: 'trainer.log_every_n_steps=3' changes what is reported, not what is trained, which is "
                "the same for all variants; move it to scales.emoji.settings",
                "variant elsewhere: 'contrastive.evaluation.retrieval.flags=null' changes what is reported",
                "variant lucky: 'contrastive.seed=7' sets seed, which the study sets; remove it",
            ],
        ),
        (
            lambda tree: tree["scales"]["emoji"].update(settings=["mae=null", "name=mine"]),
            ["scales.emoji.settings: 'name=mine' sets name, which the study sets; remove it"],
        ),
        (
            lambda tree: tree["scales"]["emoji"].update(metrics=["eval/nowhere_ko/image_to_text_R@1"]),
            ["variant plain is not evaluated on it; its sets are captions, flags_en"],
        ),
    ],
)
def test_open_study__all_variants_are_checked(
    study_file: Path, change: Callable[[dict[str, Any]], None], messages: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        open_study(_changed(study_file, change), Choice(seeds=2), on_this_machine=False)
    for message in messages:
        assert message in str(caught.value)


def test_open_study__optimizer_and_logging_may_be_set(study_file: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["variants"]["adamw"] = {"about": "another optimizer", "overrides": ["contrastive.optimizer.name=adamw"]}
        tree["scales"]["emoji"]["settings"] += ["trainer.log_every_n_steps=3", "contrastive.data.captions.name=0.6"]

    study = open_study(_changed(study_file, change), Choice(seeds=1), on_this_machine=False)
    assert len({run.fingerprint for run in study.runs}) == len(study.runs) == 4
    (adamw,) = (run for run in study.runs if run.variant == "adamw")
    assert "contrastive.optimizer.name: muon -> adamw" in adamw.differences


def test_open_study__equal_compute_gives_the_operations_of_the_reference(study_file: Path) -> None:
    """Counted with the chosen steps: within half a step of those of 800 steps of one whole crop."""

    def change(tree: dict[str, Any]) -> None:
        settings = ["num_global_crops=1", "num_local_crops=0"]
        one_crop = [f"contrastive.transform.{one}" for one in settings] + [
            "contrastive.image_encoder.patch_drop_rate=0"
        ]
        tree["scales"]["emoji"]["settings"] = []
        tree["variants"] = {
            "plain": {"about": "one crop", "overrides": ["mae=null", *one_crop]},
            "crops": {"about": "more crops", "overrides": ["mae=null"], "equal_compute": True},
            "mae": {"about": "one crop after MAE", "overrides": one_crop, "equal_compute": True},
        }

    study = open_study(_changed(study_file, change), Choice(seeds=1), on_this_machine=False)
    operations, steps = {}, {}
    for run in study.runs:
        stages = stages_of(run.experiment)
        operations[run.variant] = sum(map(training_operations, stages.values()))
        steps[run.variant] = stages["contrastive"].schedule.max_steps
        per_step = operations_per_sample(stages["contrastive"]) * stages["contrastive"].data.global_batch_size
        assert abs(operations[run.variant] - operations["plain"]) <= per_step / 2
    assert steps["plain"] == 800
    assert max(steps["crops"], steps["mae"]) < 800


def test_open_study__equal_compute_that_leaves_nothing_is_refused(study_file: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["scales"]["emoji"]["settings"] = []
        tree["variants"]["plain"]["overrides"] = ["mae=null", "contrastive.schedule.max_steps=30"]
        tree["variants"]["plain"]["equal_compute"] = True
        tree["variants"]["mae"] = {"about": "much MAE", "overrides": ["mae.schedule.max_steps=9000"]}

    with pytest.raises(ConfigError, match="variant plain: equal_compute compares with the reference, which this is"):
        open_study(_changed(study_file, change), Choice(seeds=1), on_this_machine=False)

    def move(tree: dict[str, Any]) -> None:
        change(tree)
        del tree["variants"]["plain"]["equal_compute"]
        tree["variants"]["mae"]["equal_compute"] = True

    with pytest.raises(ConfigError, match="variant mae: its MAE pre-training takes more operations than plain in all"):
        open_study(_changed(study_file, move), Choice(seeds=1), on_this_machine=False)


def test_open_study__unknown_scale_and_no_quick_settings(study_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"--scale paper: .* has the scales emoji"):
        open_study(study_file, Choice(scale="paper"))
    with pytest.raises(ConfigError, match=r"--quick: .* has no scales\.emoji\.quick"):
        open_study(study_file, Choice(quick=True))


def test_open_study__quick_trains_another_experiment_with_two_seeds_by_default(study_file: Path) -> None:
    content = yaml.safe_load(study_file.read_text(encoding="utf-8"))
    base = study_file.parent / content["scales"]["emoji"]["base"]
    schedule = {"max_steps": 5, "warmup_steps": 1}
    (study_file.parent / "short.yaml").write_text(
        yaml.safe_dump({"extends": str(base), "contrastive": {"schedule": schedule}}), encoding="utf-8"
    )
    content["scales"]["emoji"]["quick"] = "short.yaml"
    study_file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    for choice, seeds, steps in (
        (Choice(quick=True), 2, 5),
        (Choice(quick=True, seeds=3), 3, 5),
        (Choice(), 3, 800),
    ):
        plain = [run for run in open_study(study_file, choice).runs if run.variant == "plain"]
        assert [run.seed for run in plain] == list(range(seeds))
        assert {run.plan.stages["contrastive"].max_steps for run in plain} == {steps}
