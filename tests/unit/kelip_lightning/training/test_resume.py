"""Which run is resumed, whether it is the same experiment, and from which checkpoint."""

import functools
import json
from pathlib import Path

import pytest

from data_modules.json_lines import read_json_lines
from kelip_lightning.config.experiment import PretrainExperiment, TrainerConfig
from kelip_lightning.config.load import LoadedExperiment, load_experiment
from kelip_lightning.errors import CheckpointError, RunFolderError
from kelip_lightning.runs import checkpoints
from kelip_lightning.runs.checkpoints import Manifest
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.training.resume import find_run, open_stage, record_resumption, refuse_other_settings
from tests.paths import ROOT

EXPERIMENT = ROOT / "experiments" / "emoji" / "pretrain.yaml"


@functools.cache
def load(*overrides: str) -> LoadedExperiment[PretrainExperiment]:
    return load_experiment(EXPERIMENT, overrides, PretrainExperiment)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "one", config=load().resolved, overrides=[], plan={})


def save(run: RunFolder, stage: str, step: int, *, world: int = 1, sharded: bool = False) -> Path:
    """A checkpoint that may be taken for one of Lightning's or DeepSpeed's."""
    partial = checkpoints.partial_folder(run.stage(stage).checkpoints, step)
    file = partial / "state.ckpt" / "rank0" if sharded else partial / "state.ckpt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"state")
    length = run.metrics.stat().st_size if run.metrics.is_file() else 0
    manifest = Manifest(stage=stage, step=step, world_size=world, metrics_bytes=length, files={})
    return checkpoints.seal(partial, manifest).folder


def test_find_run__auto_begins_one_if_there_is_none(run: RunFolder, tmp_path: Path) -> None:
    assert find_run("auto", tmp_path / "new") is None
    found = find_run("auto", run.path)
    assert found is not None
    assert (found.path, found.resumed, found.chosen) == (run.path, True, None)


def test_find_run__a_faster_rank_starts_a_new_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "plan.yaml").touch()
    with pytest.raises(RunFolderError, match="holds no run to resume"):
        find_run("auto", tmp_path / "one")
    monkeypatch.setenv("RANK", "1")
    assert find_run("auto", tmp_path / "one") is None


def test_find_run__by_path(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nowhere holds no run to resume"):
        find_run(str(tmp_path / "nowhere"), run.path)
    with pytest.raises(RunFolderError, match="holds no run to resume"):
        find_run(str(tmp_path / "checkpoints" / "step=0000001"), run.path)
    folder = save(run, "contrastive", 10)
    found = find_run(str(folder), tmp_path / "other")
    assert found is not None
    assert found.path == run.path
    assert found.chosen is not None
    assert found.chosen.step == 10
    (folder / "state.ckpt").write_bytes(b"stat")
    with pytest.raises(CheckpointError, match="has 4 bytes of the 5 written"):
        find_run(str(folder), tmp_path / "other")


def test_find_run__not_while_it_is_in_progress(run: RunFolder) -> None:
    run.write_status("running")
    with pytest.raises(RunFolderError, match=r"in progress .* stop that process first"):
        find_run("auto", run.path)
    status = run.read_status() | {"host": "elsewhere"}
    run.status.write_text(json.dumps(status), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"in progress on elsewhere .* --resume"):
        find_run("auto", run.path)
    assert find_run(str(run.path), run.path) is not None


def test_refuse_other_settings__names_what_differs(run: RunFolder) -> None:
    assert refuse_other_settings(run, load("name=other")) == []
    allowed = ["trainer.devices=2", "contrastive.checkpoint.keep_last=5", "mae.data.num_workers=3"]
    changes = refuse_other_settings(run, load(*allowed))
    assert changes == [
        "mae.data.num_workers: 1 -> 3",
        "mae.trainer.devices: auto -> 2",
        "contrastive.trainer.devices: auto -> 2",
        "contrastive.checkpoint.keep_last: 2 -> 5",
    ]
    also = [
        "trainer.gradient_checkpointing=true",
        "contrastive.loss.max_logits_per_pair=64",
        "evaluation.every_n_steps=7",
    ]
    assert refuse_other_settings(run, load(*also)) == [
        "mae.trainer.gradient_checkpointing: false -> true",
        "contrastive.loss.max_logits_per_pair: null -> 64",
        "contrastive.trainer.gradient_checkpointing: false -> true",
        "contrastive.evaluation.every_n_steps: 200 -> 7",
    ]
    with pytest.raises(RunFolderError, match=r"contrastive.optimizer.learning_rate: 0.003 -> 0.001\); restore them"):
        refuse_other_settings(run, load("contrastive.optimizer.learning_rate=0.001", "trainer.devices=2"))


def test_refuse_other_settings__time_limits_of_reading_may_change(run: RunFolder) -> None:
    slow = "contrastive.data.sources.plain.read_timeout_seconds"
    assert refuse_other_settings(run, load(f"{slow}=300")) == [f"{slow}: 60.0 -> 300.0"]


def test_record_resumption__one_line_each(run: RunFolder) -> None:
    record_resumption(run, ["a=1"], ["x: 1 -> 2"])
    with (run.resumes).open("a", encoding="utf-8") as file:
        file.write('{"since": ')  # killed while it resumed
    record_resumption(run, [], [])
    lines = list(read_json_lines(run.resumes))
    assert [(line["overrides"], line["changes"]) for line in lines] == [(["a=1"], ["x: 1 -> 2"]), ([], [])]
    assert lines[0]["environment"]["python"]


def test_open_stage__only_the_first_process_creates_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers start all ranks at once: a faster one must not make the run's folder look occupied."""
    with monkeypatch.context() as other:
        other.setenv("RANK", "1")
        open_stage(RunFolder(tmp_path / "one"), "mae", TrainerConfig())
    assert not (tmp_path / "one").exists()
    assert open_stage(RunFolder(tmp_path / "one"), "mae", TrainerConfig()).path.is_dir()


def test_open_stage__cuts_the_record_and_gives_the_checkpoint(run: RunFolder) -> None:
    run.metrics.write_text('{"stage": "mae", "step": 0}\n', encoding="utf-8")
    save(run, "mae", 1)
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write('{"stage": "mae", "step": 1}\n')
    assert open_stage(run, "mae", TrainerConfig()).checkpoint is None, "a new run does not look for one"
    stage = open_stage(RunFolder(run.path, resumed=True), "mae", TrainerConfig())
    assert stage.checkpoint is not None
    assert stage.checkpoint.step == 1
    assert run.metrics.read_text(encoding="utf-8") == '{"stage": "mae", "step": 0}\n'
    assert open_stage(RunFolder(run.path, resumed=True), "contrastive", TrainerConfig()).checkpoint is None


def test_open_stage__back_to_an_earlier_checkpoint(run: RunFolder) -> None:
    chosen = checkpoints.read_checkpoint(save(run, "mae", 1))
    save(run, "mae", 2)
    stage = open_stage(RunFolder(run.path, resumed=True, chosen=chosen), "mae", TrainerConfig())
    assert stage.checkpoint == chosen
    assert [one.name for one in checkpoints.checkpoint_folders(stage.checkpoints)] == ["step=0000001"]


def test_open_stage__a_checkpoint_that_does_not_fit_the_processes(run: RunFolder) -> None:
    save(run, "mae", 1, world=2, sharded=True)
    resumed = RunFolder(run.path, resumed=True)
    with pytest.raises(CheckpointError, match=r"written under DeepSpeed, and trainer.strategy = auto cannot"):
        open_stage(resumed, "mae", TrainerConfig())
    with pytest.raises(CheckpointError, match=r"shards of 2 processes, .*num_nodes = 4; resume on 2"):
        open_stage(resumed, "mae", TrainerConfig(strategy="deepspeed_stage_1", devices=2, num_nodes=2))
    assert open_stage(resumed, "mae", TrainerConfig(strategy="deepspeed_stage_1", devices=2)).checkpoint is not None
    save(run, "mae", 2, world=2)
    with pytest.raises(CheckpointError, match="written without DeepSpeed"):
        open_stage(resumed, "mae", TrainerConfig(strategy="deepspeed_stage_1", devices=2))


def test_open_stage__shares_of_an_optimizer_with_other_groups(run: RunFolder) -> None:
    save(run, "contrastive", 1, world=2, sharded=True)
    resumed, trainer = RunFolder(run.path, resumed=True), TrainerConfig(strategy="deepspeed_stage_1", devices=2)
    assert open_stage(resumed, "contrastive", trainer).checkpoint is not None
    begun_by = json.loads(run.environment.read_text(encoding="utf-8"))
    del begun_by["code"]
    run.environment.write_text(json.dumps(begun_by), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"parameter groups of an earlier revision; finish the run with"):
        open_stage(resumed, "contrastive", trainer)
