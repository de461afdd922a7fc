"""Distributions of caption lengths."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data_modules.faults import FaultReport
from data_modules.records import PairRecord
from data_modules.text.config import CaptionConfig
from kelip_lightning.benchmarks.step.captions import CaptionLengths, cc3m_like_lengths, emoji_lengths


class Fruits:
    """A source of three names, each in one language."""

    name = "fruits"
    _texts = ("a red apple", "pear", "사과")

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> PairRecord:
        text = self._texts[index]
        return PairRecord(key=str(index), image=b"", language="en" if text.isascii() else "ko", caption=text)

    def rows_of(self, language: str) -> NDArray[np.int64]:
        return np.array([place for place, text in enumerate(self._texts) if text.isascii() == (language == "en")])

    def pairs(self) -> NDArray[np.int64]:
        return np.arange(len(self))

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        return (("en", text) for text in self._texts[::every])

    def opening_faults(self) -> list[FaultReport]:
        return []


def test_cc3m_like__has_the_published_mean_and_deviation_plus_start_and_end() -> None:
    found = cc3m_like_lengths()
    lengths, shares = np.array(list(found.shares)), np.array(list(found.shares.values()))
    mean = lengths @ shares
    assert np.isclose(shares.sum(), 1)
    assert np.isclose(mean, 10.3 + 2, atol=0.01) and np.isclose(found.mean, mean)
    assert np.isclose(np.sqrt((lengths - mean) ** 2 @ shares), 4.5, atol=0.05)


def test_cc3m_like__is_the_rounded_log_normal() -> None:
    generator, spread = np.random.default_rng(0), np.sqrt(np.log(1 + (4.5 / 10.3) ** 2))
    words = generator.lognormal(np.log(10.3) - spread**2 / 2, spread, 400_000)
    sampled = np.maximum(1, np.rint(words)) + 2
    found = cc3m_like_lengths()
    for length in (5, 9, 12, 20):
        assert np.isclose(found.shares[length], (sampled == length).mean(), atol=0.002)
    assert [found.quantile(level) for level in (0.05, 0.5, 0.95)] == np.quantile(sampled, (0.05, 0.5, 0.95)).tolist()


def test_quantile__is_the_smallest_length_that_reaches_the_share(lengths: CaptionLengths) -> None:
    assert [lengths.quantile(level) for level in (0, 0.5, 0.51, 0.75, 0.76, 1)] == [4, 4, 9, 9, 12, 12]


def test_draw__has_the_shares_and_truncates(lengths: CaptionLengths) -> None:
    drawn = lengths.draw(20_000, 10, np.random.default_rng(1))
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [4, 9, 10]
    np.testing.assert_allclose(counts / len(drawn), [0.5, 0.25, 0.25], atol=0.015)
    assert np.array_equal(drawn, lengths.draw(20_000, 10, np.random.default_rng(1)))


def test_emoji_lengths__are_the_tokens_of_the_sampled_captions() -> None:
    """259 tokens are bytes and special tokens: a character of ASCII is one token, a Hangul syllable three."""
    found = emoji_lengths(Fruits(), CaptionConfig(plain=1.0), 259, num_captions=3, max_training_pairs=3)
    expected = [len("a red apple") + 2, len("pear") + 2, len("사과".encode()) + 2]
    assert found.shares == {length: (expected.count(length)) / 3 for length in expected}
