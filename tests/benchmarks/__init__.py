"""Benchmarks: measurements that are printed, never asserted."""

import argparse
import os
import time
from collections.abc import Callable

import torch


def single_threaded(description: str | None) -> argparse.ArgumentParser:
    """The command line of a benchmark; also limits torch to one thread."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def seconds_of(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds that the work takes on this clock."""
    start = clock()
    work()
    return clock() - start
