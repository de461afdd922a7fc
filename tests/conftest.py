"""What every test gets: no network, one thread, its own random stream, and the defaults back afterwards."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch

SEED = 0

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C, which tests send, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _caches_of_the_test_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hugging Face caches go to a folder of this test run, not to the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        # Not the environment variable: `datasets` reads it once, when the first test module imports it.
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))
        yield


@pytest.fixture(autouse=True)
def _same_start_for_every_test() -> Iterator[None]:
    """Seeds Python, NumPy and torch, and puts back what a test (or a Trainer in it) changed globally."""
    dtype = torch.get_default_dtype()
    _choose_any_algorithm()  # a Trainer in a fixture of the module may have left it otherwise
    grad_enabled, environment = torch.is_grad_enabled(), dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(dtype)
    _choose_any_algorithm()
    torch.set_grad_enabled(grad_enabled)
    _restore_environment(environment)
    for number, handler in handlers.items():
        signal.signal(number, handler)  # a verb that has finished ignores the scheduler's


def _choose_any_algorithm() -> None:
    """As torch begins; Lightning's Trainer changes it for the whole process."""
    if torch.are_deterministic_algorithms_enabled():  # the call itself loads the compiler
        torch.use_deterministic_algorithms(False)


def _restore_environment(environment: dict[str, str]) -> None:
    """Lightning leaves seeds and ranks behind, which would steer the next test's Trainer."""
    current_test = os.environ.get("PYTEST_CURRENT_TEST")
    os.environ.clear()
    os.environ.update(environment)
    if current_test is not None:
        os.environ["PYTEST_CURRENT_TEST"] = current_test


@pytest.fixture
def runs_folder(tmp_path: Path) -> Path:
    """An empty folder to pass as an experiment's `output_dir`."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder
