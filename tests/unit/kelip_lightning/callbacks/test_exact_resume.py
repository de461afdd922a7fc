"""The global random streams, captured and restored."""

import io
import random

import numpy as np
import torch

from kelip_lightning.callbacks.exact_resume import capture_random_state, restore_random_state, seed_random_state

CPU = torch.device("cpu")


def draw() -> tuple[float, float, float, float]:
    return random.gauss(0, 1), float(np.random.normal()), float(torch.randn(1)), random.random()


def test_restore__continues_every_stream() -> None:
    draw()
    state = capture_random_state(CPU)
    expected = [draw() for _ in range(3)]
    restore_random_state(state, CPU)
    assert [draw() for _ in range(3)] == expected


def test_capture__can_be_loaded_without_running_code() -> None:
    file = io.BytesIO()
    torch.save(capture_random_state(CPU), file)
    expected = draw()
    file.seek(0)
    restore_random_state(torch.load(file, weights_only=True), CPU)
    assert draw() == expected


def test_seed__depends_on_every_word() -> None:
    drawn = []
    for words in ((0, 1, 2), (0, 1, 2), (0, 1, 3), (0, 2, 2), (1, 1, 2)):
        seed_random_state(*words)
        drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 4
