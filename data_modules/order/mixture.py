"""Mixture of sources and languages in the batches of a run.

Temperature as in Devlin et al. 2019 (multilingual BERT) and Conneau et al. 2020 (arXiv:1911.02116): shares
proportional to n^(1/T).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_modules.config import OrderConfig
from data_modules.errors import DataError
from data_modules.languages import LANGUAGES
from data_modules.order.groups import GroupedOrder, grouped
from data_modules.order.permutation import Ids
from data_modules.order.sampling import BatchOrder, Order, Stratum
from data_modules.sources.config import SourceConfig
from data_modules.sources.rows import PairSource


@dataclass(frozen=True, slots=True)
class SingleLanguageOrder:
    """Global batches of one language each; the languages alternate, each with its own order and epochs.

    With n_0 of N samples per epoch in the first language, floor((k n_0 + N / 2) / N) of the first k batches are in it.

    Attributes:
        orders: One per language, in the order of `LANGUAGES`.
    """

    orders: tuple[BatchOrder | GroupedOrder, BatchOrder | GroupedOrder]

    @property
    def global_batch_size(self) -> int:
        return self.orders[0].global_batch_size

    @property
    def epoch_length(self) -> int:
        """Samples of one epoch of both languages."""
        return sum(order.epoch_length for order in self.orders)

    def _turn(self, step: int) -> tuple[int, int]:
        """Index of the language of global batch `step`, and number of batches of this language before it."""
        first = self.orders[0].epoch_length
        before, after = ((number * first + self.epoch_length // 2) // self.epoch_length for number in (step, step + 1))
        return (0, before) if after > before else (1, step - before)

    def batch(self, step: int) -> Ids:
        """The sample ids of global batch `step`, all of one language, int64 (global_batch_size,)."""
        language, turn = self._turn(step)
        return self.orders[language].batch(turn)

    def batches(self, start: int, stop: int) -> Ids:
        """The sample ids of global batches [start, stop), int64 (stop - start, global_batch_size)."""
        turns = [self._turn(step) for step in range(start, stop)]
        ids = np.empty((len(turns), self.global_batch_size), dtype=np.int64)
        for language, order in enumerate(self.orders):
            rows = [row for row, (of_row, _) in enumerate(turns) if of_row == language]
            if rows:
                first = turns[rows[0]][1]
                ids[rows] = order.batches(first, first + len(rows))
        return ids

    def language(self, step: int) -> str | None:
        return LANGUAGES[self._turn(step)[0]]


def build_order(
    sources: Sequence[PairSource],
    configs: Mapping[str, SourceConfig],
    batch: int,
    seed: int,
    config: OrderConfig | None = None,
) -> Order:
    """The order of the samples of a run.

    Args:
        sources: Opened, in the order of their ids.
        configs: Name -> settings.
        batch: Samples of one optimizer step.
        seed: The run's seed.
        config: Mixture and shuffling; `None`: the natural mixture, shuffled over whole epochs.

    Raises:
        DataError: A language that the settings name has no pair.
    """
    config = config or OrderConfig()
    weights = [configs[source.name].weight for source in sources]
    if not config.splits_languages:
        pairs = [source.pairs() for source in sources]
        lengths, firsts = tuple(map(len, pairs)), [0, *np.cumsum([len(source) for source in sources]).tolist()]
        are_whole = all(len(one) == len(source) for one, source in zip(pairs, sources, strict=True))
        drawn = None if are_whole else tuple(map(Stratum, firsts, pairs))
        whole = BatchOrder(lengths, tuple(weights), batch, seed, config.shuffle_window, config.run_length, drawn)
        return grouped(whole, config.groups)
    strata = {language: _strata(sources, weights, language, config) for language in LANGUAGES}
    for language in LANGUAGES if config.single_language_batches else config.language_weights:
        if not strata[language]:
            raise DataError(
                f"data.order asks for pairs in '{language}', and no source has any; correct the sources' languages, or "
                "leave language_weights and single_language_batches out"
            )
    if config.temperature > 1:
        strata = _tempered(strata, config.temperature)

    def order(weighted: Weighted, seed: int) -> BatchOrder | GroupedOrder:
        strata, weights = tuple(stratum for stratum, _ in weighted), tuple(weight for _, weight in weighted)
        lengths = tuple(len(stratum.rows) for stratum in strata)
        whole = BatchOrder(lengths, weights, batch, seed, config.shuffle_window, config.run_length, strata)
        return grouped(whole, config.groups)

    if not config.single_language_batches:
        return order([one for language in LANGUAGES for one in strata[language]], seed)
    # Seeds are below 2**32, so no other run shares the second language's permutations.
    ko, en = (order(strata[language], seed + (i << 32)) for i, language in enumerate(LANGUAGES))
    return SingleLanguageOrder((ko, en))


Weighted = list[tuple[Stratum, float]]
"""Strata with their passes per epoch."""


def _strata(sources: Sequence[PairSource], weights: Sequence[float], language: str, config: OrderConfig) -> Weighted:
    found: Weighted = []
    first_id = 0
    for source, weight in zip(sources, weights, strict=True):
        rows = source.rows_of(language)
        if len(rows):
            found.append((Stratum(first_id, rows), weight * config.language_weights.get(language, 1.0)))
        first_id += len(source)
    return found


def _tempered(strata: Mapping[str, Weighted], temperature: float) -> dict[str, Weighted]:
    """The strata with weights that give each its tempered share of an epoch of unchanged length."""
    natural = np.array([weight * len(stratum.rows) for weighted in strata.values() for stratum, weight in weighted])
    shares = natural ** (1 / temperature)
    draws = iter(np.maximum(1, np.round(shares / shares.sum() * natural.sum())))
    return {
        language: [(stratum, float(next(draws)) / len(stratum.rows)) for stratum, _ in weighted]
        for language, weighted in strata.items()
    }
