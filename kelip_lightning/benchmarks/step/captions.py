"""Distributions of caption lengths, on which the cost of the text encoder depends."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from data_modules.image_text import training_texts
from data_modules.sources.rows import PairSource
from data_modules.text.captions import CaptionSampler
from data_modules.text.config import CaptionConfig
from data_modules.text.tokenizer import train_tokenizer

START_AND_END = 2
"""Tokens of every caption beside its text."""
_WORDS_MEAN, _WORDS_DEVIATION, _MOST_WORDS = 10.3, 4.5, 200


class Captions(Enum):
    """Whose caption lengths a benchmark draws."""

    emoji = "emoji"
    cc3m_like = "cc3m_like"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionLengths:
    """A distribution of caption lengths in tokens, start and end included."""

    name: str
    description: str
    shares: dict[int, float]
    """Length -> share of the captions; they sum to 1."""

    @property
    def mean(self) -> float:
        """Mean length."""
        return sum(length * share for length, share in self.shares.items())

    def quantile(self, level: float) -> int:
        """The shortest length that at least this share of the captions, in [0, 1], does not exceed."""
        lengths, shares = self._sorted()
        # The sum of all shares may be below 1 by rounding.
        place = int(np.searchsorted(np.cumsum(shares), level - 1e-9))
        return int(lengths[min(place, len(lengths) - 1)])

    def draw(self, number: int, longest: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Lengths of `number` captions, int64 (number,); longer ones are truncated to `longest`."""
        lengths, shares = self._sorted()
        drawn: NDArray[np.int64] = generator.choice(lengths, size=number, p=shares / shares.sum())
        return np.minimum(drawn, longest)

    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        lengths = sorted(self.shares)
        return np.array(lengths, dtype=np.int64), np.array([self.shares[one] for one in lengths])


def emoji_lengths(
    source: PairSource, captions: CaptionConfig, vocab_size: int, *, num_captions: int, max_training_pairs: int
) -> CaptionLengths:
    """Captions sampled from the embedded corpus as in training, by a tokenizer trained on it as a run's is.

    Args:
        source: Of the corpus.
        captions: Forms and templates of a caption.
        vocab_size: Largest vocabulary of the tokenizer.
        num_captions: Captions to sample, from records evenly spaced in the source.
        max_training_pairs: Pairs that the tokenizer is trained on, at most.
    """
    # No truncation here: a batch truncates to the context length of its model.
    tokenizer = train_tokenizer(training_texts([source], max_training_pairs), vocab_size, context_length=2**15)
    sample, generator = CaptionSampler(captions), np.random.default_rng(0)
    places = np.linspace(0, len(source) - 1, num_captions).astype(int)
    counts = tokenizer.count_tokens([sample(source[int(place)], generator) for place in places])
    description = f"{num_captions:,} captions of the embedded corpus, tokenizer of {tokenizer.vocab_size:,}"
    return CaptionLengths(name=Captions.emoji.name, description=description, shares=_shares(counts))


def _shares(counts: Sequence[int]) -> dict[int, float]:
    lengths, numbers = np.unique(np.array(counts) + START_AND_END, return_counts=True)
    return {int(length): float(number) / len(counts) for length, number in zip(lengths, numbers, strict=True)}


def cc3m_like_lengths() -> CaptionLengths:
    """An assumption in place of CC3M: log-normal with its published mean and standard deviation, rounded to tokens.

    One token per word, plus start and end: a mean of 12.3 tokens. CC3M is not read; a real tokenizer also splits rare
    words into several tokens.

    Reference: Sharma et al. 2018 (Conceptual Captions, ACL), table 1: 10.3 words per training caption on average,
        standard deviation 4.5.
    """
    spread = np.sqrt(np.log1p((_WORDS_DEVIATION / _WORDS_MEAN) ** 2))
    words = stats.lognorm(s=spread, scale=_WORDS_MEAN / np.exp(spread**2 / 2))
    edges = np.concatenate([[0.0], np.arange(1.5, _MOST_WORDS + 1)])
    shares = np.diff(words.cdf(edges)) / words.cdf(edges[-1])
    found = {number + START_AND_END: float(share) for number, share in enumerate(shares, start=1)}
    description = "log-normal words, mean 10.3 and deviation 4.5 as published for CC3M; one token a word"
    return CaptionLengths(name=Captions.cc3m_like.name, description=description, shares=found)
