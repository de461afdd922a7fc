"""Sampling of training captions: a record's name, its keywords, or both, in a template."""

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
    """Probabilities of the forms of a training caption, and their templates."""

    name: float = field(default=1.0, metadata=between(0, 1))
    """Probability of the name alone: the record's caption."""
    name_keywords: float = field(default=0.0, metadata=between(0, 1))
    """Probability of the name with keywords."""
    keywords: float = field(default=0.0, metadata=between(0, 1))
    """Probability of keywords alone, in random order."""
    min_keywords: int = field(default=2, metadata=at_least(1))
    """Minimum number of sampled keywords, >= 1 (fewer if the record has fewer)."""
    max_keywords: int = field(default=5, metadata=at_least(1))
    """Maximum number of sampled keywords."""
    plain: float = field(default=0.5, metadata=between(0, 1))
    """Probability of the first template; the others are equally likely."""
    templates_file: str | None = None
    """YAML file form -> language -> templates; `None`: no templates."""

    def __post_init__(self) -> None:
        check_ranges(self)
        total = self.name + self.name_keywords + self.keywords
        if abs(total - 1) > 1e-6:
            raise ValueError(f"name, name_keywords and keywords are probabilities that must sum to 1, not {total:g}")
        if self.min_keywords > self.max_keywords:
            raise ValueError(f"min_keywords = {self.min_keywords} must not exceed max_keywords = {self.max_keywords}")


def load_templates(file: str | None) -> Templates:
    """The templates of a YAML file (form -> language -> list); `PLAIN_TEMPLATES` for `None`.

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
            f"placeholders except {{name}} and {{keywords}} ({error!r})"
        ) from error
    return templates


class CaptionSampler:
    """Samples one caption of a record from the sample's random stream."""

    def __init__(self, config: CaptionConfig) -> None:
        self.config = config
        self.templates = load_templates(config.templates_file)

    def __call__(self, record: PairRecord, generator: np.random.Generator) -> str:
        """The caption; a record with several captions uses any of them, one without keywords the form `name`."""
        config = self.config
        form_draw, template_draw = generator.random(2)
        captions = (record.caption, *record.more_captions)
        name = captions[int(generator.integers(len(captions)))] if len(captions) > 1 else record.caption
        form, keywords = "name", ""
        if record.keywords and form_draw >= config.name:
            form = "name_keywords" if form_draw < config.name + config.name_keywords else "keywords"
            number = int(generator.integers(config.min_keywords, config.max_keywords + 1))
            order = generator.permutation(len(record.keywords))[:number]
            keywords = ", ".join(record.keywords[i] for i in order)
        template, *others = self.templates[form][record.language]
        if template_draw >= config.plain and others:
            share = (template_draw - config.plain) / (1 - config.plain)
            template = others[min(int(share * len(others)), len(others) - 1)]
        return template.format(name=name, keywords=keywords)
