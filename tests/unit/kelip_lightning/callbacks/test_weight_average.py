"""The moving average against the formula, and who sees it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from kelip_lightning.callbacks.periodic import PeriodicCallback
from kelip_lightning.callbacks.weight_average import WeightAverageCallback

DECAY = 0.8


class WeightRecorder(PeriodicCallback):
    """The weights in the steps themselves, and those that an evaluation sees."""

    def __init__(self) -> None:
        super().__init__(every_n_steps=1)
        self.trained: list[Tensor] = []
        self.seen: list[Tensor] = []

    def act(self, trainer: pl.Trainer, pl_module: Any, step: int) -> None:
        if step:  # there is no average before the first one
            self.seen.append(pl_module.model.logit_scale.detach().clone())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *arguments: Any) -> None:
        self.trained.append(pl_module.model.logit_scale.detach().clone())
        super().on_train_batch_end(trainer, pl_module, *arguments)
        assert torch.equal(pl_module.model.logit_scale, self.trained[-1]), "training continues with its own weights"


def test_average__is_what_evaluations_see_and_what_training_leaves(fit: Callable[..., tuple[pl.Trainer, Any]]) -> None:
    recorder = WeightRecorder()
    _, module = fit([WeightAverageCallback(DECAY), recorder])
    expected = recorder.trained[0]
    for trained, seen in zip(recorder.trained, recorder.seen, strict=True):
        if trained is not recorder.trained[0]:
            expected = DECAY * expected + (1 - DECAY) * trained
        torch.testing.assert_close(seen, expected)
    torch.testing.assert_close(module.model.logit_scale.detach(), expected)
    assert (recorder.trained[-1] - expected).abs().max() > 1e-3, "the average must be another than the last weights"


class MetaStrategy(SingleDeviceStrategy):
    """Training on the meta device, which the accelerator of the CPU would refuse and no tensor comes back from."""

    def __init__(self) -> None:
        super().__init__(device=torch.device("meta"))

    def setup_environment(self) -> None:
        pass

    def teardown(self) -> None:
        pass


class LookedError(Exception):
    """The probe has seen what it wanted."""


class ElsewhereProbe(pl.Callback):
    """Where the average lies when the module has been moved, and whether an update waits for the device.

    The meta device replaces a GPU: copying a value to the host raises an error there.
    """

    def __init__(self, average: WeightAverageCallback) -> None:
        self._average = average
        self.devices: set[str] = set()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert pl_module.device.type == "meta"
        average = self._average._average_model
        assert average is not None
        self.devices = {one.device.type for one in [*average.module.parameters(), *average.module.buffers()]}
        average.update_parameters(pl_module)
        average.update_parameters(pl_module)
        with self._average.in_place(pl_module):
            pass
        raise LookedError


@pytest.mark.parametrize("resumed", [False, True])
def test_average__is_where_the_module_is_and_no_update_waits_for_the_device(
    fit: Callable[..., tuple[pl.Trainer, Any]], tmp_path: Path, resumed: bool
) -> None:
    """Lightning sets callbacks up, and restores their state, before the module moves to its device."""
    checkpoint = tmp_path / "average.ckpt"
    if resumed:

        class Saver(pl.Callback):
            def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
                trainer.save_checkpoint(checkpoint)

        fit([WeightAverageCallback(DECAY), Saver()], steps=2)
    average = WeightAverageCallback(DECAY)
    probe = ElsewhereProbe(average)
    with pytest.raises(LookedError):
        fit([average, probe], steps=4, strategy=MetaStrategy(), ckpt_path=checkpoint if resumed else None)
    assert probe.devices == {"meta"}
