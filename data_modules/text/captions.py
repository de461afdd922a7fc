"""Which caption a pair shows at a step: its name, its keywords, or both, in a template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_modules.config_roles import at_least, between, check_ranges
from data_modules.errors import DataError
from data_modules.paths import resolve_path
from data_modules.records import LANGUAGES, PairRecord
from data_modules.text.cleaning import text_list

FORMS: tuple[str, ...] = ("name", "name_keywords", "keywords")
"""The three forms of a caption."""

Templates = Mapping[str, Mapping[str, Sequence[str]]]
"""Form -> language -> templates with `{name}` and `{keywords}`."""

PLAIN_TEMPLATES: Templates = {
    "name": {"ko": ["{name}"], "en": ["{name}"]},
    "name_keywords": {"ko": ["{name}: {keywords}"], "en": ["{name}: {keywords}"]},
    "keywords": {"ko": ["{keywords}"], "en": ["{keywords}"]},
}


@dataclass(kw_only=True, slots=True)
class CaptionConfig:
    """How a training caption is drawn from a record."""

    name: float = field(default=1.0, metadata=between(0, 1))
    """Probability of the caption (name) alone."""
    name_keywords: float = field(default=0.0, metadata=between(0, 1))
    """Probability of the name with some keywords."""
    keywords: float = field(default=0.0, metadata=between(0, 1))
    """Probability of keywords alone, in random order."""
    min_keywords: int = field(default=2, metadata=at_least(1))
    """Fewest keywords drawn, >= 1 (fewer where the record has fewer)."""
    max_keywords: int = field(default=5, metadata=at_least(1))
    """Most keywords drawn."""
    plain: float = field(default=0.5, metadata=between(0, 1))
    """Probability of the bare first template; the others share the rest."""
    templates_file: str | None = None
    """YAML file form -> language -> templates; none: the bare text."""

    def __post_init__(self) -> None:
        check_ranges(self)
        total = self.name + self.name_keywords + self.keywords
        if abs(total - 1) > 1e-6:
            raise ValueError(f"name, name_keywords and keywords are probabilities that must sum to 1, not {total:g}")
        if self.min_keywords > self.max_keywords:
            raise ValueError(f"min_keywords = {self.min_keywords} must not exceed max_keywords = {self.max_keywords}")


def load_templates(file: str | None) -> Templates:
    """The templates of a YAML file (form -> language -> list), or the bare ones without a file.

    Raises:
        DataError: The file is missing or lacks a form.
    """
    if file is None:
        return PLAIN_TEMPLATES
    path = resolve_path(file)
    if not path.is_file():
        raise DataError(f"captions.templates_file: {path} does not exist")
    loaded: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {form: {language: _templates(loaded, form, language, path) for language in LANGUAGES} for form in FORMS}


def _templates(loaded: Any, form: str, language: str, path: Path) -> list[str]:
    try:
        templates = text_list(loaded[form][language])
        for template in templates:
            template.format(name="", keywords="")
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"captions.templates_file: {path} needs a template or a list of them under {form}.{language}, with no "
            f"placeholder but {{name}} and {{keywords}} ({error!r})"
        ) from error
    return templates


class CaptionDrawer:
    """Draws one caption of a record from the sample's own random stream."""

    def __init__(self, config: CaptionConfig) -> None:
        self.config = config
        self.templates = load_templates(config.templates_file)

    def __call__(self, record: PairRecord, generator: np.random.Generator) -> str:
        """The caption; a record without keywords always shows its name, one with several captions any of them."""
        form_draw, template_draw = generator.random(2)
        captions = (record.caption, *record.more_captions)
        caption = captions[int(generator.integers(len(captions)))] if len(captions) > 1 else record.caption
        form = self._form(form_draw) if record.keywords else "name"
        keywords = self._keywords(record.keywords, generator) if form != "name" else ""
        template = self._template(self.templates[form][record.language], template_draw)
        return template.format(name=caption, keywords=keywords)

    def _form(self, draw: float) -> str:
        if draw < self.config.name:
            return "name"
        return "name_keywords" if draw < self.config.name + self.config.name_keywords else "keywords"

    def _keywords(self, keywords: Sequence[str], generator: np.random.Generator) -> str:
        number = int(generator.integers(self.config.min_keywords, self.config.max_keywords + 1))
        order = generator.permutation(len(keywords))[:number]
        return ", ".join(keywords[i] for i in order)

    def _template(self, templates: Sequence[str], draw: float) -> str:
        others = len(templates) - 1
        if draw < self.config.plain or not others:
            return templates[0]
        share = (draw - self.config.plain) / (1 - self.config.plain)
        return templates[1 + min(int(share * others), others - 1)]
