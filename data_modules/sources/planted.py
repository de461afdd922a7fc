"""Differences between the languages that are planted in training data, to measure whether an analysis finds them.

Of word pairs that name the same concepts in both languages, some are *planted*: one half of their concepts, the first
in the order of their identifiers or those of some kinds of pictures, is captioned in one language alone, the other half
in the other. Then the Korean word is learnt from other concepts than the English one. As an image that has one language
is captioned in it twice an epoch, the words of *controls* that keep both languages have as many captions. Controls
may be split too (`split_controls`): half of the images of each concept are captioned in one language alone, the others
in the other (every second one, in the order of a hash of their keys). No concept belongs to two of these pairs.

Which pairs these are follows from the texts and the seed alone, so an analysis of the run finds them again.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_modules.errors import DataError
from data_modules.faults import SampleFault, encodable
from data_modules.languages import LANGUAGES
from data_modules.records import PairRecord
from data_modules.sources.config import LanguageRule, PlantedConfig, SourceConfig
from data_modules.sources.languages import OneLanguageSource
from data_modules.sources.rows import PairSource, Rows, make_record, text_fields
from data_modules.sources.tables import TableSource, as_text, check_columns, read_rows
from data_modules.text.trained_words import ConceptTexts, TrainedPair, overlap, trained_pairs

Parts = tuple[list[str], list[str]]
"""The concepts of a pair in two halves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedPair:
    """A word pair whose images have one language each."""

    pair: TrainedPair
    planted: bool
    """Whether concepts have one language; of a control, images do if controls are split."""
    language_of: Mapping[str, str]
    """Concept -> its language; empty for a control."""
    language_of_image: Mapping[str, str]
    """Key of an image -> its language; empty for a planted pair, and unless controls are split."""

    def concepts_in(self, language: str) -> frozenset[str]:
        """The concepts that training shows under the word of a language."""
        shown = self.pair.ko_concepts if language == "ko" else self.pair.en_concepts
        return frozenset(one for one in shown if self.language_of.get(one, language) == language)


def read_concepts(
    sources: Sequence[PairSource],
    configs: Mapping[str, SourceConfig],
    column: str,
    *,
    cluster: str | None = None,
    kind: str | None = None,
) -> dict[str, ConceptTexts]:
    """Identifier -> texts of every concept of the sources: those of all its rows, and the largest weight of them.

    Args:
        sources: Opened by `open_source`.
        configs: Their settings by name.
        column: Column that identifies concepts.
        cluster: Column of the clusters; `None`: there are none.
        kind: Column of the kinds of pictures; `None`: there are none.

    Raises:
        DataError: A source is no table with captions and keywords in both languages, or lacks a column.
    """
    found: dict[str, ConceptTexts] = {}
    for source in sources:
        config = configs[source.name]
        if not isinstance(source, TableSource):
            raise DataError(f"source '{source.name}' is no table, and words are counted in tables; name a table")
        for name, fields in (("captions", config.captions), ("keywords", config.keywords)):
            if lacking := [language for language in LANGUAGES if language not in fields]:
                raise DataError(
                    f"source '{source.name}' has no {name} in '{lacking[0]}', and words are counted in both "
                    f"languages; name their column in {name}"
                )
        columns = [column, *(one for one in (cluster, kind) if one is not None)]
        check_columns(f"source '{source.name}'", source.table.column_names, columns)
        keyed = config.key in source.table.column_names
        names = list(dict.fromkeys([*columns, *text_fields(config), *([config.key] if keyed else [])]))
        numbers = source.rows.take(np.arange(len(source.rows)))
        for number, row in zip(numbers.tolist(), read_rows(source.table, names, numbers), strict=True):
            if row:
                key = encodable(str(row.get(config.key) or number))
                concept = as_text(row[column])
                alike, pictured = ("" if one is None else as_text(row[one]) for one in (cluster, kind))
                known = found.get(concept) or ConceptTexts(
                    names={}, keywords={}, weight=config.weight, cluster=alike, kind=pictured
                )
                found[concept] = _with_row(known, config, row, key)
    return found


def _with_row(known: ConceptTexts, config: SourceConfig, row: Mapping[str, object], key: str) -> ConceptTexts:
    """The texts of a concept and those of a further row, whose image has this key."""
    names, keywords = dict(known.names), dict(known.keywords)
    for pair in range(len(LANGUAGES)):
        with contextlib.suppress(SampleFault):
            one = make_record(config, key="", image=b"-", row=row, pair=pair)
            names[one.language] = _joined(names.get(one.language, ()), (one.caption, *one.more_captions))
            keywords[one.language] = _joined(keywords.get(one.language, ()), one.keywords)
    weight = max(known.weight, config.weight)
    return replace(known, names=names, keywords=keywords, weight=weight, images=known.images | {key})


def _joined(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(first + second))


def choose_pairs(concepts: Mapping[str, ConceptTexts], config: PlantedConfig) -> list[PlantedPair]:
    """The planted pairs, then the controls.

    Candidates are visited in a random order, and taken if no concept belongs to one that is taken already; every second
    one is planted.

    Raises:
        DataError: There are fewer than `num_pairs` + `num_controls`.
    """
    candidates = [
        one
        for one in trained_pairs(concepts, min_concepts=1)
        if config.min_concepts <= len(one.concepts) <= config.max_concepts
        and overlap(one.ko_concepts, one.en_concepts, concepts) >= config.min_overlap
        and (config.kind is None or len(_by_kind(one, concepts)) > 1)
    ]
    generator = np.random.default_rng(config.seed)
    taken: set[str] = set()
    disjoint = []
    for place in generator.permutation(len(candidates)):
        if taken.isdisjoint(candidates[place].concepts):
            taken |= candidates[place].concepts
            disjoint.append(candidates[place])
    needed = config.num_pairs + config.num_controls
    if len(disjoint) < needed:
        raise DataError(
            f"data.planted needs {needed} word pairs without a common concept, and finds {len(disjoint)}; lower "
            "num_pairs, num_controls, min_concepts or min_overlap, raise max_concepts, or leave kind out"
        )
    both = min(config.num_pairs, config.num_controls)
    is_planted = [True, False] * both + [config.num_pairs > both] * (needed - 2 * both)
    chosen = [
        PlantedPair(
            pair=pair,
            planted=planted,
            language_of=_halves(pair, _parts(pair, concepts, config.kind), generator) if planted else {},
            language_of_image=_alternating(pair, concepts, generator) if config.split_controls and not planted else {},
        )
        for pair, planted in zip(disjoint, is_planted, strict=False)
    ]
    return sorted(chosen, key=lambda one: not one.planted)


def _by_kind(pair: TrainedPair, concepts: Mapping[str, ConceptTexts]) -> list[list[str]]:
    """The concepts that both words name by their kinds, the kinds of most concepts first."""
    kinds: dict[str, list[str]] = {}
    for one in sorted(pair.ko_concepts & pair.en_concepts):
        kinds.setdefault(concepts[one].kind, []).append(one)
    return sorted(kinds.values(), key=len, reverse=True)


def _parts(pair: TrainedPair, concepts: Mapping[str, ConceptTexts], kind: str | None) -> Parts:
    """The concepts that both words name in two halves: by identifier, or kind by kind to the smaller half."""
    if kind is None:
        common = sorted(pair.ko_concepts & pair.en_concepts)
        return common[: len(common) // 2], common[len(common) // 2 :]
    parts: Parts = [], []
    for alike in _by_kind(pair, concepts):
        min(parts, key=len).extend(alike)
    return parts


def _halves(pair: TrainedPair, parts: Parts, generator: np.random.Generator) -> dict[str, str]:
    """Concept -> language: of the two parts one has one, the other the other.

    A concept of one word alone has that word's language.
    """
    halves = {
        one: language
        for language, part in zip(generator.permutation(LANGUAGES).tolist(), parts, strict=True)
        for one in part
    }
    only = dict.fromkeys(pair.ko_concepts - pair.en_concepts, "ko") | dict.fromkeys(
        pair.en_concepts - pair.ko_concepts, "en"
    )
    return halves | only


def _alternating(
    pair: TrainedPair, concepts: Mapping[str, ConceptTexts], generator: np.random.Generator
) -> dict[str, str]:
    """Key of an image -> language: of the images of each concept, every second one has the same."""
    found: dict[str, str] = {}
    for concept in sorted(pair.concepts):
        order = generator.permutation(LANGUAGES).tolist()
        keys = sorted(
            concepts[concept].images, key=lambda key: hashlib.sha256(key.encode(errors="surrogatepass")).digest()
        )
        found |= {key: order[place % len(order)] for place, key in enumerate(keys)}
    return found


class PlantedSource(OneLanguageSource):
    """A source with the same number and order of pairs, those of planted pairs and split controls in one language.

    Args:
        source: Of the pairs.
        config: Its settings, with captions in both languages.
        chosen: From `choose_pairs`.
        column: Column that identifies concepts.
    """

    def __init__(self, source: PairSource, config: SourceConfig, chosen: Sequence[PlantedPair], column: str) -> None:
        super().__init__(source, config, LanguageRule.both)
        self._column = column
        self._of_concept = {concept: language for one in chosen for concept, language in one.language_of.items()}
        self._of_image = {key: language for one in chosen for key, language in one.language_of_image.items()}

    def _language_of(self, record: PairRecord) -> str:
        if record.key in self._of_image:
            return self._of_image[record.key]
        return self._of_concept.get(record.attributes[self._column], record.language)

    def rows_of(self, language: str) -> Rows:
        """Raises DataError: a pair's language is known only when the pair is read."""
        raise DataError(
            "data.planted decides the language pair by pair, so that data.order cannot weigh or separate languages; "
            "leave temperature, language_weights and single_language_batches out"
        )


def plant_differences(
    sources: Sequence[PairSource], configs: Mapping[str, SourceConfig], config: PlantedConfig | None
) -> list[PairSource]:
    """The sources with the planted differences; as they are, if there are none.

    Raises:
        DataError: A source is no table of concepts in both languages, or there are too few word pairs.
    """
    if config is None:
        return list(sources)
    chosen = choose_pairs(read_concepts(sources, configs, config.column, kind=config.kind), config)
    return [PlantedSource(source, configs[source.name], chosen, config.column) for source in sources]
