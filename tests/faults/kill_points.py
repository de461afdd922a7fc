"""Places in a run at which a process is killed."""

import functools
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.faults.experiment import CONTRASTIVE_STEPS, EVALUATE_EVERY, MAE_STEPS, SAVE_EVERY
from tests.faults.runner import kill_this_process


@dataclass(frozen=True, slots=True, order=True)
class KillPoint:
    """When called, lets this process be killed once the stage reaches this place."""

    stage: str
    step: int
    """Optimizer steps done."""
    moment: int
    """Index into `MOMENTS`."""

    def __call__(self) -> None:
        """Patch the place."""
        _MINES[MOMENTS[self.moment]](self)

    @classmethod
    def at(cls, stage: str, step: int, moment: str = "before_optimizer_step") -> Self:
        """The place by the name of its moment."""
        return cls(stage, step, MOMENTS.index(moment))

    @property
    def is_on_rank_zero_alone(self) -> bool:
        """Whether only rank zero reaches this place."""
        return MOMENTS[self.moment] not in _ON_EVERY_RANK

    def __str__(self) -> str:
        return f"{self.stage}-{self.step}-{MOMENTS[self.moment]}"

    def is_here(self, trainer: Any) -> bool:
        """Whether the trainer is at this stage and step."""
        return trainer.global_step == self.step and type(trainer.lightning_module).__name__.startswith(
            {"mae": "Masked", "contrastive": "Contrastive"}[self.stage]
        )


def draw_kill_points(seed: int, count: int, *, sharded: bool = False) -> list[KillPoint]:
    """Random places, in the order in which a run reaches them; every moment is drawn once before any is repeated.

    Args:
        seed: Of the draw.
        count: How many.
        sharded: Whether DeepSpeed writes the checkpoints, whose writing cannot be interrupted from here.
    """
    generator = random.Random(seed)
    moments = [one for one in MOMENTS if not (sharded and one == "half_written")]
    order = [moment for _ in range(count) for moment in generator.sample(moments, len(moments))]
    points = [_draw(generator, moment) for moment in order[:count]]
    return sorted(points, key=lambda point: (point.stage == "contrastive", point.step, point.moment))


def _draw(generator: random.Random, moment: str) -> KillPoint:
    stage = "contrastive" if "evaluation" in moment or "report" in moment else generator.choice(["mae", "contrastive"])
    last = MAE_STEPS if stage == "mae" else CONTRASTIVE_STEPS
    match moment:
        case "during_evaluation" | "after_evaluation":
            step = generator.choice([*range(0, last, EVALUATE_EVERY), last])
        case "half_written" | "before_manifest" | "after_rename":
            step = generator.choice(range(SAVE_EVERY, last, SAVE_EVERY))
        case "before_report":
            step = last
        case _:
            step = generator.randrange(last)
    return KillPoint(stage, step, MOMENTS.index(moment))


def _before(owner: Any, name: str, is_time: Callable[..., bool]) -> None:
    """Patch a function to kill the process when it is called at this time."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def mined(*arguments: Any, **options: Any) -> Any:
        if is_time(*arguments, **options):
            kill_this_process()
        return original(*arguments, **options)

    setattr(owner, name, mined)


def _in_guard(name: str) -> Callable[[KillPoint], None]:
    def lay(point: KillPoint) -> None:
        from kelip_lightning.callbacks.non_finite import NonFiniteGuard

        _before(NonFiniteGuard, name, lambda _, trainer, *__: point.is_here(trainer))

    return lay


def _mid_accumulation(point: KillPoint) -> None:
    """Before the second chunk of a step, where there are several."""
    from kelip_lightning.modules.contrastive import ContrastiveModule
    from kelip_lightning.modules.masked_pretrain import MaskedPretrainModule

    chunks = itertools.count(1)

    def is_time(module: Any, *_: Any) -> bool:
        return point.is_here(module.trainer) and next(chunks) == min(2, module.accumulate)

    _before(ContrastiveModule, "_encode", is_time)
    _before(MaskedPretrainModule, "_loss", is_time)


def _during_evaluation(point: KillPoint) -> None:
    from kelip_lightning.callbacks import evaluation

    _before(evaluation.EvaluationCallback, "act", lambda *arguments: arguments[-1] == point.step)


def _after_evaluation(point: KillPoint) -> None:
    from kelip_lightning.callbacks.evaluation import EvaluationCallback

    original = EvaluationCallback.act

    def act(self: Any, trainer: Any, pl_module: Any, step: int) -> None:
        original(self, trainer, pl_module, step)
        if step == point.step:
            kill_this_process()

    EvaluationCallback.act = act  # type: ignore[method-assign]


def _half_written(point: KillPoint) -> None:
    from kelip_lightning.callbacks.checkpointing import DeferredErrorIO

    original = DeferredErrorIO.save_checkpoint

    def write_half(self: Any, state: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        original(self, state, path, storage_options)
        if state["global_step"] == point.step and point.stage in str(path):
            with Path(path).open("r+b") as file:
                file.truncate(Path(path).stat().st_size // 2)
            kill_this_process()

    DeferredErrorIO.save_checkpoint = write_half  # type: ignore[method-assign]


def _before_manifest(point: KillPoint) -> None:
    from kelip_lightning.runs import checkpoints

    _before(checkpoints, "seal", lambda _, manifest: (manifest.stage, manifest.step) == (point.stage, point.step))


def _after_rename(point: KillPoint) -> None:
    from kelip_lightning.runs import checkpoints

    def is_time(folder: Path, *_: Any) -> bool:
        done = folder / checkpoints.folder_name(point.step)
        return folder.parent.name == point.stage and done == checkpoints.checkpoint_folders(folder)[0]

    _before(checkpoints, "prune", is_time)


def _before_report(_: KillPoint) -> None:
    from kelip_lightning.training import stages

    _before(stages, "write_whole", lambda *_: True)


_MINES: dict[str, Callable[[KillPoint], None]] = {
    "during_evaluation": _during_evaluation,
    "after_evaluation": _after_evaluation,
    "before_step": _in_guard("on_train_batch_start"),
    "half_written": _half_written,
    "before_manifest": _before_manifest,
    "after_rename": _after_rename,
    "mid_accumulation": _mid_accumulation,
    "before_backward": _in_guard("on_before_backward"),
    "before_optimizer_step": _in_guard("on_before_optimizer_step"),
    "before_report": _before_report,
}
MOMENTS = tuple(_MINES)
"""In the order in which they come within one step number."""
_ON_EVERY_RANK = ("before_step", "mid_accumulation", "before_backward", "before_optimizer_step")
