"""Sizes follow the stated rules."""

from dataclasses import replace

import pytest

from data_modules.order.checking import MAX_REPEATS, repeated_share
from data_modules.order.sampling import BatchOrder
from data_modules.preparation.survey.survey import DataSurvey, survey_data
from kelip_lightning.scaffolding.machine import Machine
from kelip_lightning.scaffolding.sizing import SMALL, VIT_B, VIT_S, choose_sizing
from tests.unit.data_modules.corpora import picture, write_tar

CPU = Machine(cores=2, memory_bytes=2**34)
GPU = Machine(cores=16, memory_bytes=2**37, num_gpus=1, gpu_name="A100", gpu_bytes=80 * 2**30)


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> DataSurvey:
    """Of 8 pictures of one caption each, in one tar."""
    content = [
        member
        for index in range(8)
        for member in ((f"{index}.jpg", picture(index)), (f"{index}.txt", b"a red apple on a table"))
    ]
    return survey_data([write_tar(tmp_path_factory.mktemp("tar") / "a.tar", content)])


def of_size(survey: DataSurvey, rows: int, median: int) -> DataSurvey:
    """The survey as if it had so many rows, of images of this size."""
    return replace(survey, rows=replace(survey.rows, num_rows=rows), sizes=replace(survey.sizes, median=median))


@pytest.mark.parametrize(
    ("rows", "median", "machine", "image", "patch", "model"),
    [
        (5_000, 300, CPU, 64, 16, SMALL),
        (5_000, 40, CPU, 32, 8, SMALL),
        (5_000, 300, GPU, 224, 32, VIT_S),
        (5_000, 100, GPU, 128, 16, VIT_S),
        (5_000, 32, GPU, 64, 8, VIT_S),
        (3_000_000, 300, GPU, 224, 32, VIT_B),
    ],
)
def test_model_and_image_size(
    survey: DataSurvey, rows: int, median: int, machine: Machine, image: int, patch: int, model: object
) -> None:
    sizing = choose_sizing(of_size(survey, rows, median), machine)
    assert (sizing.image_size, sizing.patch_size, sizing.model) == (image, patch, model)
    assert sizing.local_size % sizing.patch_size == 0


@pytest.mark.parametrize("rows", [8, 16, 31, 38, 63, 64, 127, 255, 511, 1023, 2047])
def test_batch__is_one_that_training_accepts(survey: DataSurvey, rows: int) -> None:
    sizing = choose_sizing(of_size(survey, rows, 300), CPU)
    order = BatchOrder((rows,), (1.0,), sizing.batch_size, seed=0)
    assert repeated_share(order, sizing.max_steps) <= MAX_REPEATS


@pytest.mark.parametrize(
    ("rows", "batch", "steps"),
    [
        (40, 4, 300),  # an eighth of the pairs, rounded down to a power of two; 30 passes
        (1_000, 64, 469),  # 125 -> 64; 30,000 pairs
        (5_000, 256, 586),  # the largest batch of a CPU; 150,000 pairs
        (100_000, 256, 782),  # 200,000 pairs: two passes
        (1_000_000, 256, 4102),  # one pass and 5 %
    ],
)
def test_batch_and_steps_on_a_cpu(survey: DataSurvey, rows: int, batch: int, steps: int) -> None:
    sizing = choose_sizing(of_size(survey, rows, 300), CPU)
    assert (sizing.batch_size, sizing.max_steps) == (batch, steps)


def test_a_small_gpu_gets_a_smaller_batch(survey: DataSurvey) -> None:
    large = of_size(survey, 3_000_000, 300)
    batches = [choose_sizing(large, replace(GPU, gpu_bytes=gib * 2**30)).batch_size for gib in (8, 24, 80)]
    assert batches == sorted(set(batches))
    assert batches[-1] <= 4096


def test_context_length_follows_the_captions(survey: DataSurvey) -> None:
    assert choose_sizing(survey, CPU).context_length == 24  # 22 characters, start and end
