"""Fixed batches: what they hold, and that every contestant gets the same."""

from collections.abc import Callable

import numpy as np
import torch
from torchvision.transforms import Normalize

from kelip_lightning.benchmarks.step.batches import (
    NUM_BATCHES,
    FixedBatches,
    float_batch,
    make_batches,
    plain_tokenizer,
    random_tokens,
)
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.setting import MODELS, ModelName, StepSetting
from kelip_lightning.models.preprocessing import CLIP_MEAN, CLIP_STD

Setting = Callable[..., StepSetting]
TINY = MODELS[ModelName.tiny]


def test_make_batches__are_a_function_of_the_seed(tiny_setting: Setting, lengths: CaptionLengths) -> None:
    first, again, other = (make_batches(tiny_setting(), lengths, seed) for seed in (5, 5, 6))
    assert len(first) == NUM_BATCHES
    for one, same in zip(first, again, strict=True):
        assert torch.equal(one.global_crops, same.global_crops) and torch.equal(one.tokens, same.tokens)
    assert not torch.equal(first[0].global_crops, other[0].global_crops)
    assert not torch.equal(first[0].global_crops, first[1].global_crops)


def test_make_batches__shapes(tiny_setting: Setting, lengths: CaptionLengths) -> None:
    batch = make_batches(tiny_setting(global_crops=2, local_crops=3), lengths, 0)[1]
    assert batch.global_crops.shape == (2, 4, 3, 32, 32) and batch.global_crops.dtype == torch.uint8
    assert batch.local_crops.shape == (3, 4, 3, 16, 16)
    assert batch.sample_ids.tolist() == [4, 5, 6, 7]
    assert batch.token_counts == (batch.tokens != TINY.pad_id).sum(dim=1).tolist()


def test_random_tokens__start_text_end_padding() -> None:
    tokens = random_tokens(np.array([2, 7, 5]), TINY, np.random.default_rng(0)).numpy()
    assert tokens.shape == (3, 7)
    for row, length in zip(tokens, (2, 7, 5), strict=True):
        assert row[0] == TINY.vocab_size - 2 and row[length - 1] == TINY.vocab_size - 1 == row.max()
        assert (row == TINY.vocab_size - 1).sum() == 1
        assert not row[length:].any() and row[:length].all()


def test_float_batch__standardised_as_by_torchvision_and_padded(tiny_setting: Setting, lengths: CaptionLengths) -> None:
    batch = make_batches(tiny_setting(local_crops=1), lengths, 0)[0]
    made, padded = float_batch(batch), float_batch(batch, 30)
    expected = Normalize(CLIP_MEAN, CLIP_STD)(batch.global_crops[0].float() / 255)
    torch.testing.assert_close(made.global_crops[0], expected)
    assert made.local_crops.shape == batch.local_crops.shape
    assert torch.equal(made.tokens, batch.tokens)
    assert padded.tokens.shape == (4, 30)
    assert torch.equal(padded.tokens[:, : batch.tokens.shape[1]], batch.tokens)
    assert not padded.tokens[:, batch.tokens.shape[1] :].any()


def test_plain_tokenizer__has_the_ids_of_the_model() -> None:
    tokenizer = plain_tokenizer(TINY)
    found = (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.sot_id, tokenizer.eot_id, tokenizer.context_length)
    assert found == (TINY.vocab_size, TINY.pad_id, TINY.eot_id - 1, TINY.eot_id, TINY.context_length)


def test_fixed_batches__come_in_turn(tiny_setting: Setting, lengths: CaptionLengths) -> None:
    batches = make_batches(tiny_setting(), lengths, 0)
    loader = FixedBatches(batches, max_steps=6).train_dataloader()
    found = [int(batch.sample_ids[0]) for batch in loader]
    assert len(loader) == 6
    assert found == [0, 4, 8, 12, 0, 4]
