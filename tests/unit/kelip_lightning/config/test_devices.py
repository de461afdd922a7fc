"""The processes of `trainer.devices: auto` and the threads of each, by cores, batch, launcher and GPUs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kelip_lightning.config import devices
from kelip_lightning.config.devices import MIN_SAMPLES, choose_devices, with_devices, with_threads
from kelip_lightning.config.experiment import (
    ContrastiveExperiment,
    EvaluationExperiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
    TrainerConfig,
)
from kelip_lightning.config.load import load_experiment
from kelip_lightning.errors import ConfigError
from tests.paths import ROOT

Machine = Callable[..., None]
EMOJI = ROOT / "experiments" / "emoji"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Sets the cores and GPUs of this machine, and the processes that a launcher has started."""

    def have(cores: int = 1, *, gpus: int = 0, launched: int | None = None) -> None:
        monkeypatch.setattr(devices, "usable_cores", lambda: cores)
        monkeypatch.setattr(devices, "num_gpus", lambda accelerator: 0 if accelerator == "cpu" else gpus)
        monkeypatch.setattr(devices, "num_launched", lambda _: launched)
        monkeypatch.setattr(devices, "has_external_launcher", lambda: launched is not None)

    have()
    return have


@pytest.mark.parametrize(
    ("cores", "samples", "expected"),
    [
        (1, [256], 1),
        (2, [256], 2),
        (6, [256], 4),  # 5 and 6 do not divide 256
        (7, [210], 6),
        (64, [256], 8),  # 32 samples each
        (4, [256, 128], 4),
        (4, [96, 128], 2),  # 3 processes divide the first alone, 4 the second
        (4, [63], 1),
        (2, [64], 2),
        (4, [MIN_SAMPLES - 1, 256], 1),
        (4, [0], 1),  # another rule tells that the batch is too small
    ],
)
def test_choose_devices__on_a_cpu(machine: Machine, cores: int, samples: list[int], expected: int) -> None:
    machine(cores)
    assert choose_devices([TrainerConfig(devices="auto")], samples) == expected


@pytest.mark.parametrize(("num_threads", "expected"), [(1, 8), (2, 4), (3, 2), (16, 1)])
def test_choose_devices__the_threads_of_a_process_have_a_core_each(
    machine: Machine, num_threads: int, expected: int
) -> None:
    machine(8)
    trainers = [TrainerConfig(devices="auto"), TrainerConfig(devices="auto", num_threads=num_threads)]
    assert choose_devices(trainers, [1024, 1024]) == expected


@pytest.mark.parametrize(("gpus", "expected"), [(1, 1), (4, 4), (6, 4)])
def test_choose_devices__one_per_gpu_that_gets_an_equal_share(machine: Machine, gpus: int, expected: int) -> None:
    machine(2, gpus=gpus)
    assert choose_devices([TrainerConfig(devices="auto")], [16]) == expected, "not limited by cores or 32 samples"
    assert choose_devices([TrainerConfig(devices="auto", accelerator="cpu")], [64]) == 2


def test_choose_devices__as_many_as_the_launcher_has_started(machine: Machine) -> None:
    machine(2, gpus=4, launched=3)
    assert choose_devices([TrainerConfig(devices="auto")], [256]) == 3


@pytest.mark.parametrize(("variable", "value"), [("LOCAL_WORLD_SIZE", "3"), ("SLURM_NTASKS_PER_NODE", "3")])
def test_choose_devices__reads_the_launcher_s_variables(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: 8)
    monkeypatch.setattr(devices, "num_gpus", lambda _: 0)
    assert choose_devices([TrainerConfig(devices="auto")], [256]) == 8
    monkeypatch.setenv("SLURM_NTASKS", "6")
    monkeypatch.setenv(variable, value)
    assert choose_devices([TrainerConfig(devices="auto")], [256]) == 3


def devices_of(experiment: Any) -> list[int | str]:
    """Of every stage, in order."""
    if isinstance(experiment, PretrainExperiment):
        stages = [one for one in (experiment.mae, experiment.contrastive) if one is not None]
    else:
        stages = [experiment]
    return [stage.trainer.devices for stage in stages]


@pytest.mark.parametrize(
    ("name", "schema", "expected"),
    [
        ("mae", MaskedPretrainExperiment, [4]),
        ("contrastive", ContrastiveExperiment, [4]),
        ("pretrain", PretrainExperiment, [4, 4]),
    ],
)
def test_with_devices__every_experiment(machine: Machine, name: str, schema: type[Any], expected: list[int]) -> None:
    machine(6)
    written = load_experiment(EMOJI / f"{name}.yaml", [], schema, on_this_machine=False).experiment
    before = devices_of(written)
    assert set(before) == {"auto"}
    assert devices_of(with_devices(written)) == expected
    assert devices_of(written) == before, "the experiment itself stays as it is written"
    assert with_devices(with_devices(written)) == with_devices(written)


def pretrain(*overrides: str) -> PretrainExperiment:
    file = EMOJI / "pretrain.yaml"
    return load_experiment(file, overrides, PretrainExperiment, on_this_machine=False).experiment


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["mae.data.global_batch_size=96", "contrastive.data.global_batch_size=128"], [2, 2]),
        (["trainer.accumulate=2"], [3, 3]),  # 96 samples in one forward pass
        (["contrastive.trainer.accumulate=6"], [1, 1]),
        (["mae=null"], [6]),
        (["trainer.num_nodes=2", "data.global_batch_size=64"], [1, 1]),
        (["contrastive.trainer.devices=3"], [3, 3]),  # given for one stage: the same in the other
        (["mae.trainer.devices=2"], [2, 2]),
        (["trainer.devices=8"], [8, 8]),
    ],
)
def test_with_devices__the_same_number_in_both_stages(
    machine: Machine, overrides: list[str], expected: list[int]
) -> None:
    machine(6)
    assert devices_of(with_devices(pretrain("data.global_batch_size=192", *overrides))) == expected


def test_with_devices__changes_nothing_else(machine: Machine) -> None:
    machine(2)
    written, found = pretrain(), with_devices(pretrain())
    assert found.mae is not None and written.mae is not None
    back = replace(
        found,
        mae=replace(found.mae, trainer=written.mae.trainer),
        contrastive=replace(found.contrastive, trainer=written.contrastive.trainer),
    )
    assert back == written
    assert replace(found.contrastive.trainer, devices="auto") == written.contrastive.trainer


@pytest.mark.usefixtures("machine")
def test_with_devices__an_experiment_without_stages() -> None:
    experiment = load_experiment(
        ROOT / "experiments/evaluation/paper.yaml", [], EvaluationExperiment, on_this_machine=False
    ).experiment
    assert with_devices(experiment) is experiment
    assert with_threads(experiment) is experiment


@pytest.mark.parametrize(
    ("cores", "overrides", "expected"),
    [
        (2, ["trainer.devices=2"], [1, 1]),
        (8, ["trainer.devices=2"], [4, 4]),
        (7, ["trainer.devices=2"], [3, 3]),
        (2, ["trainer.devices=4"], [1, 1]),
        (8, ["trainer.devices=2", "mae.trainer.num_threads=2"], [2, 4]),  # a number that is given stays
        (8, ["trainer.devices=1"], [None, None]),  # torch's default
        (8, ["trainer.devices=1", "trainer.num_threads=3"], [3, 3]),
    ],
)
def test_with_threads__an_equal_share_of_the_cores(
    machine: Machine, cores: int, overrides: list[str], expected: list[int | None]
) -> None:
    machine(cores)
    found = with_threads(pretrain(*overrides))
    assert found.mae is not None
    assert [stage.trainer.num_threads for stage in (found.mae, found.contrastive)] == expected


def test_with_threads__not_for_processes_of_a_launcher_or_on_gpus(machine: Machine) -> None:
    for there in ({"launched": 2}, {"gpus": 2}):
        machine(8, **there)
        assert with_threads(pretrain("trainer.devices=2")).contrastive.trainer.num_threads is None
    on_cpu = with_threads(pretrain("trainer.devices=2", "trainer.accelerator=cpu"))
    assert on_cpu.contrastive.trainer.num_threads == 4


def test_loading__keeps_auto_so_that_a_resumed_run_fits_its_machine(machine: Machine, tmp_path: Path) -> None:
    machine(2)
    loaded = load_experiment(EMOJI / "pretrain.yaml", [], PretrainExperiment)
    assert devices_of(with_devices(loaded.experiment)) == [2, 2]
    for stage in ("mae", "contrastive"):
        trainer = yaml.safe_load(loaded.resolved)[stage]["trainer"]
        assert (trainer["devices"], trainer["num_threads"]) == ("auto", None)
    stored = tmp_path / "config.yaml"
    stored.write_text(loaded.resolved, encoding="utf-8")
    machine(4)
    again = load_experiment(stored, [], PretrainExperiment, stored=True)
    assert devices_of(with_devices(again.experiment)) == [4, 4]


WRONG = [
    ("0", "trainer.devices = 0 must be at least 1, or auto"),
    ("-1", "trainer.devices = -1 must be at least 1, or auto"),
    ("all", "trainer.devices = 'all' must be a whole number of at least 1, or auto"),
    ("1.5", "trainer.devices = 1.5 must be a whole number of at least 1, or auto"),
    ("null", "trainer.devices = null must be a whole number of at least 1, or auto"),
    ("true", "trainer.devices = true must be a whole number of at least 1, or auto"),
    ("[2]", "trainer.devices = [2] must be a whole number of at least 1, or auto"),
]


@pytest.mark.parametrize(("value", "sentence"), WRONG)
def test_loading__a_wrong_value_is_told_with_its_rule(value: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pretrain(f"trainer.devices={value}")
    assert caught.value.problems == [f"{stage}.{sentence}" for stage in ("mae", "contrastive")]


def test_loading__a_quoted_number_is_one() -> None:
    assert devices_of(pretrain("trainer.devices='2'")) == [2, 2]


def test_construction__checks_the_word_and_the_range() -> None:
    for value, sentence in WRONG[:3]:
        with pytest.raises(ValueError, match=sentence.removeprefix("trainer.")):
            TrainerConfig(devices=int(value) if value.lstrip("-").isdecimal() else value)


def test_loading__a_batch_that_cannot_be_shared_names_the_devices(machine: Machine) -> None:
    with pytest.raises(ConfigError) as caught:
        pretrain("trainer.devices=3")
    assert caught.value.problems == [
        f"{stage}.data.global_batch_size = 256 must be a multiple of trainer.devices x num_nodes x accumulate = "
        "3 x 1 x 1; use 255 or 258"
        for stage in ("mae", "contrastive")
    ]
    machine(2, launched=3)
    with pytest.raises(ConfigError) as caught:
        load_experiment(EMOJI / "mae.yaml", [], MaskedPretrainExperiment)
    assert caught.value.problems == [
        "data.global_batch_size = 256 must be a multiple of trainer.devices x num_nodes x accumulate = 3 x 1 x 1; "
        "use 255 or 258"
    ]
