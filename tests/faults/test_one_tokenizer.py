"""Of several processes one makes the tokenizer, and the others read what it wrote."""

from hashlib import sha256
from pathlib import Path

import pytest

from tests.faults.experiment import write_experiment
from tests.faults.runner import kelip
from tests.faults.tokenizer_training import TrainTokenizer

pytestmark = pytest.mark.distributed


def test_tokenizer__is_made_by_the_first_process_and_read_by_the_other(tmp_path: Path) -> None:
    command = ["pretrain", str(write_experiment(tmp_path)), f"output_dir={tmp_path}", "mae=null", "trainer.devices=2"]
    sabotage = {0: TrainTokenizer(2.0), 1: TrainTokenizer(None)}
    ended = kelip(*command, "contrastive.schedule.max_steps=3", log=tmp_path / "log", world=2, sabotage=sabotage)
    assert ended.exit_codes == [0, 0], ended.output
    run = tmp_path / "tiny"
    kept = (run / "tokenizer.json").read_bytes()
    assert (run / "contrastive" / "dual_encoder" / "tokenizer.json").read_bytes() == kept
    assert sha256(kept).hexdigest() in (run / "data.json").read_text(encoding="utf-8")
