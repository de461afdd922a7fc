"""Pairs from parquet files through Hugging Face `datasets`."""

from typing import Any

from data_modules.errors import DataError
from data_modules.records import LANGUAGES, PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.tables import as_text, matching_rows, open_table


class ParquetSource:
    """Random access to the pairs of parquet files: one pair per row and language.

    Pair `index` is row `index // L` in the language `index % L`, with L the number of languages.
    """

    def __init__(self, name: str, config: SourceConfig) -> None:
        self.name = name
        self.config = config
        self.languages = [language for language in LANGUAGES if language in config.captions]
        columns = [config.key, *config.captions.values(), *config.keywords.values(), *config.where]
        self.table = open_table(config.files, config.image, columns)
        self.rows = matching_rows(self.table, config.where)
        if not len(self.rows):
            raise DataError(f"source '{name}' has no row with {config.where}; loosen its `where`")
        self._check_captions()
        text_columns = {config.image, *config.captions.values(), *config.keywords.values()}
        self._attributes = [name for name in self.table.column_names if name not in text_columns]

    def _check_captions(self) -> None:
        for column in self.config.captions.values():
            if None in self.table.select_columns([column]).select(self.rows)[column][:]:
                raise DataError(f"source '{self.name}': a row has no '{column}'; leave it out with `where`")

    def __len__(self) -> int:
        return len(self.rows) * len(self.languages)

    def __getitem__(self, index: int) -> PairRecord:
        position, language_index = divmod(index, len(self.languages))
        language = self.languages[language_index]
        row = self.table[int(self.rows[position])]
        return PairRecord(
            key=str(row[self.config.key]),
            image=row[self.config.image]["bytes"],
            language=language,
            caption=row[self.config.captions[language]],
            keywords=self._keywords(row, language),
            attributes={name: as_text(row[name]) for name in self._attributes},
        )

    def _keywords(self, row: dict[str, Any], language: str) -> tuple[str, ...]:
        column = self.config.keywords.get(language)
        return tuple(row[column] or ()) if column else ()

    def captions(self) -> list[tuple[str, str]]:
        """Every (language, text) of the source, names and keywords alike, in row order, images unread."""
        texts: list[tuple[str, str]] = []
        columns = {*self.config.captions.values(), *self.config.keywords.values()}
        table = self.table.select_columns(list(columns)).select(self.rows)
        for row in table:
            for language in self.languages:
                texts.append((language, row[self.config.captions[language]]))
                texts.extend((language, word) for word in self._keywords(row, language))
        return texts
