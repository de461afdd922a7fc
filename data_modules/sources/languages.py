"""Which language the captions of an image, a concept or a design come in: a pure function of a hash."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum

from data_modules.errors import DataError
from data_modules.faults import FaultReport, SampleFault
from data_modules.records import LANGUAGES, PairRecord
from data_modules.sources.config import SourceConfig, SourceKind, source_kind
from data_modules.sources.protocol import PairSource
from data_modules.sources.rows import EveryNth, Rows, needs_language_marks


class LanguageRule(Enum):
    """Who decides the language of a pair."""

    both = "both"
    """The order of samples: every image is seen with captions of every language that it has."""
    by_image = "by_image"
    """The image's key: no image is ever seen with both languages."""
    by_concept = "by_concept"
    """The column `concept`: nor is any thing that is shown."""
    by_design = "by_design"
    """The column `design`: nor is any style of drawing."""
    ko = "ko"
    """Korean alone."""
    en = "en"
    """English alone."""


_COLUMN_OF = {LanguageRule.by_concept: "concept", LanguageRule.by_design: "design"}
_ROWS_TRIED = 32
"""Rows that are read to learn a source's columns."""


def check_rule(sources: Mapping[str, SourceConfig], rule: LanguageRule) -> None:
    """Raise ValueError where a source has no columns, and the rule reads one."""
    for name, source in sources.items():
        if rule in _COLUMN_OF and source_kind(source) is SourceKind.shards:
            raise ValueError(
                f"languages = {rule.name} reads the column '{_COLUMN_OF[rule]}', and source '{name}' is shards, which "
                "have none: use by_image, or a table"
            )


def hashed_language(value: str) -> str:
    """The language that falls to a value: ko or en, each for half of all values."""
    return LANGUAGES[hashlib.sha256(value.encode(errors="surrogatepass")).digest()[0] % len(LANGUAGES)]


class OneLanguageSource:
    """A source whose pairs keep their number and order, and come in the language that the rule gives them.

    A pair whose caption is in the other language is replaced by its twin, the same image with the caption in the right
    one. Runs with different rules thus see the same images in the same order.
    """

    def __init__(self, source: PairSource, config: SourceConfig, rule: LanguageRule) -> None:
        """Wraps a source.

        Raises:
            DataError: The rule may give a pair a language in which its image has no caption.
        """
        self.name = source.name
        self._source = source
        self._rule = rule
        self._languages = [language for language in LANGUAGES if language in config.captions]
        if rule in _COLUMN_OF and len(self._languages) < len(LANGUAGES):
            raise DataError(
                f"data.languages = {rule.name}: source '{self.name}' has captions in one language only, and the rule "
                "needs both; add the other one, or use by_image"
            )
        self._require_column()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> PairRecord:
        count = max(1, len(self._languages))
        first = index - index % count
        record = self._readable([index, *(one for one in range(first, first + count) if one != index)])
        wanted = self._language_of(record)
        if record.language == wanted or wanted not in self._languages:
            return record
        return self._source[first + self._languages.index(wanted)]

    def _readable(self, indices: Sequence[int]) -> PairRecord:
        """The first record of these pairs of one image that has its caption: each of them tells the image's language.

        Raises:
            SampleFault: None has; that of the first.
        """
        try:
            return self._source[indices[0]]
        except SampleFault:
            for index in indices[1:]:
                with contextlib.suppress(SampleFault):
                    return self._source[index]
            raise

    def _language_of(self, record: PairRecord) -> str:
        if self._rule.name in LANGUAGES:
            return self._rule.name
        if self._rule is LanguageRule.by_image:
            return hashed_language(record.key)
        return hashed_language(record.attributes[_COLUMN_OF[self._rule]])

    def _require_column(self) -> None:
        """Every row has the columns of the first one that can be read."""
        if self._rule not in _COLUMN_OF:
            return
        column = _COLUMN_OF[self._rule]
        for index in range(min(len(self), _ROWS_TRIED)):
            with contextlib.suppress(SampleFault):
                record = self._source[index]
                if column not in record.attributes:
                    raise DataError(
                        f"data.languages = {self._rule.name}: source '{self.name}' has no column '{column}'; "
                        f"its columns are {', '.join(sorted(record.attributes))}"
                    )
                return

    def rows_of(self, language: str) -> Rows:
        """The indices of the pairs in a language.

        Raises:
            DataError: The rule tells a pair's language only when the pair is read.
        """
        if self._rule.name not in LANGUAGES:
            raise DataError(
                f"data.languages = {self._rule.name} decides the language pair by pair, so that data.order cannot "
                "share batches out by language; leave temperature, language_weights and single_language_batches out"
            )
        return EveryNth(0, 1, len(self) if language == self._rule.name else 0)

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        """Every (language, text), of both languages: a rule changes the tokenizer only by leaving out sources."""
        return self._source.captions(every)

    def opening_faults(self) -> list[FaultReport]:
        """What was left out when the source was opened."""
        return self._source.opening_faults()


def apply_language_rule(
    sources: Sequence[PairSource], configs: Mapping[str, SourceConfig], rule: LanguageRule
) -> list[PairSource]:
    """The sources under a rule; for one language alone, without those that have no caption in it.

    Raises:
        DataError: The rule does not fit a source, or no source is left.
    """
    if rule is LanguageRule.both:
        return list(sources)
    if rule.name in LANGUAGES:
        sources = [source for source in sources if _speaks(configs[source.name], source.name, rule.name)]
        if not sources:
            raise DataError(f"data.languages = {rule.name}: no source has captions in '{rule.name}'; name their column")
    return [OneLanguageSource(source, configs[source.name], rule) for source in sources]


def _speaks(config: SourceConfig, name: str, language: str) -> bool:
    """Whether a source has captions in a language.

    Raises:
        DataError: Only its rows tell.
    """
    if needs_language_marks(config):
        raise DataError(
            f"data.languages = {language}: the rows of source '{name}' tell their language themselves; give it "
            "`captions` by language or a fixed `language`"
        )
    return language in config.captions or (bool(config.caption_fields) and config.language == language)
