"""Settings of checkpoints, of losses that are not finite, and of the embedding projector."""

from dataclasses import dataclass, field
from enum import Enum

from data_modules.config_roles import PERFORMANCE, REPORTING, above, at_least, between, check_ranges


class BestMode(Enum):
    """Whether more or less of a metric is better."""

    max = "max"
    min = "min"


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """When checkpoints are written, and which stay on disk. A stage that ends or is interrupted always writes one."""

    every_n_steps: int | None = field(default=500, metadata=REPORTING | at_least(1))
    """Optimizer steps between checkpoints; null: none by steps."""
    every_n_minutes: float | None = field(default=None, metadata=REPORTING | above(0))
    """Minutes of training after which one is written, counted from the last; null: none by time."""
    keep_last: int = field(default=2, metadata=REPORTING | at_least(1))
    """Newest checkpoints that stay on disk; 2 or more, and a damaged one still leaves the one before it."""
    best_metric: str | None = field(default=None, metadata=REPORTING)
    """A metric of the evaluation, such as eval/NAME_ko/image_to_text_R@1: the checkpoint with its best value stays
    too, and one is written when it improves; null: none."""
    best_mode: BestMode = field(default=BestMode.max, metadata=REPORTING)
    """Whether more (max) or less (min) of best_metric is better."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def num_kept(self) -> int:
        """The most checkpoints on disk between two saves."""
        return self.keep_last + (self.best_metric is not None)


class NonFinitePolicy(Enum):
    """stop: end the run; skip: skip the step and continue."""

    stop = "stop"
    skip = "skip"


@dataclass(kw_only=True, slots=True)
class NonFiniteConfig:
    """What happens when a loss or a gradient is not finite; in either case it never reaches the weights."""

    policy: NonFinitePolicy = field(default=NonFinitePolicy.stop, metadata=PERFORMANCE)
    """stop, or skip: the step takes no update, and training continues with the next batch."""
    max_skipped: int = field(default=10, metadata=PERFORMANCE | at_least(0))
    """Steps that a stage may skip before it stops, >= 0."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(kw_only=True, slots=True)
class ProjectorConfig:
    """TensorBoard's embedding projector: images and captions of one retrieval set, written after the last step."""

    set: str | None = field(default=None, metadata=REPORTING)
    """Name of a set in evaluation.retrieval; null: the first, and without any set nothing is written."""
    max_images: int = field(default=1000, metadata=REPORTING | between(0, 5000))
    """Most images, spread evenly over the set, each with its first caption in every language; 0: nothing is written."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.set is not None and self.max_images == 0:
            raise ValueError(f"set = {self.set} has no effect with max_images = 0; remove one of them")
