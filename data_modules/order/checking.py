"""What is checked of the batches of contrastive training before it starts.

The pairs of a batch are one another's negatives: the same pair twice in a batch is its own negative, which no training
can tell apart.
"""

import logging

import numpy as np

from data_modules.config import ImageTextDataConfig
from data_modules.errors import DataError
from data_modules.order.sampling import Order

_log = logging.getLogger(__name__)

MAX_REPEATS = 0.01
"""Largest share of a batch's pairs that the batch has already; some come where a batch runs across an epoch's end."""
_NUM_IDS, _NUM_BATCHES = 1 << 19, 1024
"""Ids and batches that are looked at, evenly spaced; one batch at least."""
_NUM_EPOCHS = 32
"""Of a shorter run so many epochs are looked at: in a few batches chance would decide, not the settings."""


def check_batches(config: ImageTextDataConfig, order: Order, max_steps: int, at: str = "") -> None:
    """Check that batches hold different pairs, and that the run sees every pair.

    Args:
        config: The data of contrastive training.
        order: Its order, of whole batches.
        max_steps: Optimizer steps of the run.
        at: Prefix of the keys in messages.

    Raises:
        DataError: A batch repeats pairs without `allow_repeats`, or the run ends within its first epoch without
            `allow_partial_epoch`.
    """
    batch, length = config.global_batch_size, order.epoch_length
    if not config.allow_repeats:
        allow = f"or set {at}data.allow_repeats: true"
        if batch > length:
            raise DataError(
                f"{at}data.global_batch_size = {batch:,} is more than the {length:,} pairs of an epoch, so that pairs "
                f"would be negatives of themselves: use a smaller batch or more data, {allow}"
            )
        if (share := repeated_share(order, max_steps)) > MAX_REPEATS:
            raise DataError(
                f"{share:.1%} of the pairs of a batch of {at}data.global_batch_size = {batch:,} are in it twice, as an "
                f"epoch has {length:,} pairs, some of them several times by weight or order: use a smaller batch, more "
                f"data or smaller weights, {allow}"
            )
    if batch * max_steps < length and config.allow_partial_epoch:
        seen, share = batch * max_steps, batch * max_steps / length
        _log.warning("the run sees %d of the %d pairs of an epoch (%.2g epochs), as it may", seen, length, share)
    elif batch * max_steps < length:
        raise DataError(
            f"{at}schedule.max_steps = {max_steps:,} steps of {batch:,} see {batch * max_steps:,} of the {length:,} "
            f"pairs of an epoch, so that the others are never trained on: use at least {-(-length // batch):,} steps, "
            f"or set {at}data.allow_partial_epoch: true"
        )


def repeated_share(order: Order, max_steps: int) -> float:
    """Share of pairs that their batch has already, over evenly spaced batches of the run, or of 32 epochs."""
    num_steps = max(max_steps, _NUM_EPOCHS * -(-order.epoch_length // order.global_batch_size))
    count = min(num_steps, _NUM_BATCHES, max(1, _NUM_IDS // order.global_batch_size))
    steps = np.unique(np.linspace(0, num_steps - 1, count).astype(np.int64)).tolist()
    repeats = [order.global_batch_size - len(np.unique(order.batch(step))) for step in steps]
    return sum(repeats) / (len(steps) * order.global_batch_size)
