"""MAE pre-training and contrastive training of a tiny model on two processes."""

from pathlib import Path

from kelip_lightning.runs.folder import RunFolder
from tests.faults.experiment import write_experiment
from tests.faults.runner import kelip


def train_chain(folder: Path, strategy: str, *overrides: str) -> RunFolder:
    """The finished run, in folder/tiny."""
    folder.mkdir()
    command = ["pretrain", str(write_experiment(folder)), f"output_dir={folder}", f"trainer.strategy={strategy}"]
    ended = kelip(*command, "trainer.devices=2", *overrides, log=folder / "log", world=2)
    assert ended.exit_codes == [0, 0], ended.output
    return RunFolder(folder / "tiny")
