"""Measurements in fresh processes, so that none finds the caches, memory and settings of another."""

import logging
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from functools import partial
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

import torch

from kelip_lightning.errors import BenchmarkError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

Progress = Callable[[str], None]
"""Receives a line for the user while a benchmark runs."""


def in_fresh_process(
    threads: int | None, work: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """The result of a function of an importable module in a new interpreter; what it prints is dropped.

    Args:
        threads: CPU threads of torch; `None`: torch's default.
        work: The function; arguments and result must be picklable.
        args: Its arguments.
        kwargs: Its arguments by name.

    Raises:
        BenchmarkError: The process died.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_quietly, threads, partial(work, *args, **kwargs)).result()
        except BrokenProcessPool as error:
            raise BenchmarkError(
                "a process of the benchmark died, most likely because memory ran out; give a smaller --batch or model"
            ) from error


def _quietly(threads: int | None, work: Callable[[], Result]) -> Result:
    """The work, with this many threads, without what it prints and what Lightning says about fits."""
    if threads is not None:
        torch.set_num_threads(threads)
    # Before the first product on a GPU, for every contestant alike: a Trainer sets it when it is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.WARNING)
    # Of Lightning 2.6 with torch 2.14 and newer; not actionable for a user.
    warnings.filterwarnings("ignore", message=r".isinstance\(treespec, LeafSpec\). is deprecated")
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        return work()
