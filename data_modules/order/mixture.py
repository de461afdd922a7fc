"""How sources and languages share the batches of a run.

Temperature as in Devlin et al. 2019 (multilingual BERT) and Conneau et al. 2020 (arXiv:1911.02116): shares
proportional to n^(1/T).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data_modules.config_roles import above, at_least, check_ranges
from data_modules.errors import DataError
from data_modules.order.permutation import Ids
from data_modules.order.sampling import BatchOrder, Order, Stratum
from data_modules.records import LANGUAGES
from data_modules.sources.config import SourceConfig, SourceKind, source_kind
from data_modules.sources.protocol import PairSource
from data_modules.sources.rows import needs_language_marks


@dataclass(kw_only=True, slots=True)
class OrderConfig:
    """In which order, and how often, the samples of the sources come."""

    temperature: float = field(default=1.0, metadata=at_least(1))
    """1: the natural mixture, every sample `weight` times an epoch. T > 1: each language of each source gets a share of
    the epoch proportional to (weight x pairs)^(1/T); the epoch's length stays, small ones repeat."""
    language_weights: dict[str, float] = field(default_factory=dict, metadata=above(0))
    """Language -> passes over its pairs per epoch, > 0, times the source's weight; empty: all alike."""
    single_language_batches: bool = False
    """Whether a global batch holds pairs of one language only; they then take turns in proportion to their pairs."""
    shuffle_window: int = field(default=0, metadata=at_least(0))
    """Samples over which the order mixes, in runs that can be read together; 0: the whole epoch, each sample alone."""
    run_length: int = field(default=64, metadata=at_least(1))
    """Neighbours in a source that stay together in the order of runs; used with a `shuffle_window`."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for language in self.language_weights:
            if language not in LANGUAGES:
                raise ValueError(f"language_weights names {language!r}: use ko or en")

    @property
    def splits_languages(self) -> bool:
        """Whether the languages of a source are drawn separately."""
        return self.temperature > 1 or bool(self.language_weights) or self.single_language_batches


def check_streams(sources: Mapping[str, SourceConfig], order: OrderConfig) -> None:
    """Raise ValueError where a source is streamed and cannot be read in such an order."""
    for name, source in sources.items():
        if source_kind(source) is not SourceKind.stream:
            continue
        if order.shuffle_window == 0:
            raise ValueError(
                f"order.shuffle_window = 0 mixes whole epochs, and source '{name}' is streamed: say over how many rows "
                "to mix, for example 4096"
            )
        if order.splits_languages and needs_language_marks(source):
            raise ValueError(
                f"order.temperature, language_weights and single_language_batches need languages beforehand, which the "
                f"rows of source '{name}' tell when they are streamed: give it language = ko or en"
            )


@dataclass(frozen=True, slots=True)
class SingleLanguageOrder:
    """Global batches of one language each: the languages take turns, each in an order of its own.

    Language l with n of N samples an epoch has floor((k n + c) / N) of the first k batches, spread evenly, so each
    sample still comes as often as its weight says, counted in epochs of its own language.
    """

    orders: tuple[BatchOrder, BatchOrder]
    """One per language, in the order of `LANGUAGES`."""

    @property
    def global_batch_size(self) -> int:
        """Samples of one optimizer step."""
        return self.orders[0].global_batch_size

    @property
    def epoch_length(self) -> int:
        """Samples of one epoch of both languages."""
        return sum(order.epoch_length for order in self.orders)

    def _turn(self, step: int) -> tuple[int, int]:
        """Index of the language of global batch `step`, and how many of its batches came before."""
        first = self.orders[0].epoch_length
        before, after = ((number * first + self.epoch_length // 2) // self.epoch_length for number in (step, step + 1))
        return (0, before) if after > before else (1, step - before)

    def batch(self, step: int) -> Ids:
        """The sample ids of global batch `step`, all of one language, int64 (global_batch_size,)."""
        language, turn = self._turn(step)
        return self.orders[language].batch(turn)

    def language(self, step: int) -> str | None:
        """The language of global batch `step`."""
        return LANGUAGES[self._turn(step)[0]]


def build_order(
    sources: Sequence[PairSource],
    configs: Mapping[str, SourceConfig],
    batch: int,
    seed: int,
    config: OrderConfig | None = None,
) -> Order:
    """The order in which the sources are drawn.

    Args:
        sources: Opened, in the order of their ids.
        configs: Name -> settings.
        batch: Samples of one optimizer step.
        seed: The run's seed.
        config: Mixture and shuffling; none: the natural mixture over whole epochs.

    Raises:
        DataError: A language that is asked for has no pair.
    """
    config = config or OrderConfig()
    weights = [configs[source.name].weight for source in sources]
    if not config.splits_languages:
        lengths = tuple(len(source) for source in sources)
        return BatchOrder(lengths, tuple(weights), batch, seed, config.shuffle_window, config.run_length)
    by_language = {language: _strata(sources, weights, language, config) for language in LANGUAGES}
    given = {language: found for language, found in by_language.items() if found}
    _require_languages(given, config)
    if config.temperature > 1:
        given = _tempered(given, config.temperature)

    def order(strata: Sequence[tuple[Stratum, float]], seed: int) -> BatchOrder:
        lengths = tuple(len(stratum.rows) for stratum, _ in strata)
        shares = tuple(weight for _, weight in strata)
        only = tuple(stratum for stratum, _ in strata)
        return BatchOrder(lengths, shares, batch, seed, config.shuffle_window, config.run_length, only)

    if not config.single_language_batches:
        return order([one for strata in given.values() for one in strata], seed)
    # Seeds lie below 2**32: the second language's permutations are none of any other run's first one.
    ko, en = (order(given[language], seed + (i << 32)) for i, language in enumerate(LANGUAGES))
    return SingleLanguageOrder((ko, en))


Weighted = list[tuple[Stratum, float]]


def _strata(sources: Sequence[PairSource], weights: Sequence[float], language: str, config: OrderConfig) -> Weighted:
    found: Weighted = []
    first_id = 0
    for source, weight in zip(sources, weights, strict=True):
        rows = source.rows_of(language)
        if len(rows):
            found.append((Stratum(first_id, rows), weight * config.language_weights.get(language, 1.0)))
        first_id += len(source)
    return found


def _require_languages(given: Mapping[str, Weighted], config: OrderConfig) -> None:
    wanted = LANGUAGES if config.single_language_batches else tuple(config.language_weights)
    for language in wanted:
        if language not in given:
            raise DataError(
                f"data.order asks for pairs in '{language}', and no source has any; correct the sources' languages, or "
                "leave language_weights and single_language_batches out"
            )


def _tempered(given: Mapping[str, Weighted], temperature: float) -> dict[str, Weighted]:
    """The strata with weights that give each its tempered share of an epoch of unchanged length."""
    natural = np.array([weight * len(stratum.rows) for strata in given.values() for stratum, weight in strata])
    shares = natural ** (1 / temperature)
    draws = iter(np.maximum(1, np.round(shares / shares.sum() * natural.sum())))
    return {
        language: [(stratum, float(next(draws)) / len(stratum.rows)) for stratum, _ in strata]
        for language, strata in given.items()
    }
