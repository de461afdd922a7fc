"""The `DataLoader` of training and evaluation."""

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from data_modules.loader_process import START_METHOD, blocked_stop_signals, init_loader_process

LOADER_TIMEOUT_SECONDS = 600
"""Longest wait for a batch; then the run ends with an error."""


class SignalSafeDataLoader(DataLoader[Any]):
    """A `DataLoader` that starts its workers with the run's stop signals blocked."""

    def __iter__(self) -> Any:
        with blocked_stop_signals():
            return super().__iter__()


def build_fixed_loader(
    dataset: Dataset[Any],
    batches: Any,
    collate: Callable[[list[Any]], Any],
    num_workers: int,
    *,
    prefetch_factor: int = 2,
    pin_memory: bool = False,
) -> SignalSafeDataLoader:
    """A loader of given batches, in order; `batches` is an iterable of lists of a dataset's indices."""
    return SignalSafeDataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        multiprocessing_context=START_METHOD if num_workers else None,
        collate_fn=collate,
        pin_memory=pin_memory,
        prefetch_factor=prefetch_factor if num_workers else None,
        timeout=LOADER_TIMEOUT_SECONDS if num_workers else 0,
        # Without it, the loader draws its base seed from the global stream.
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=functools.partial(init_loader_process, os.getpid()),
    )
