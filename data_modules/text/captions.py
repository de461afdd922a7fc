"""Sampling of training captions: a record's name, its keywords, or both, in a template."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_modules.errors import DataError
from data_modules.languages import LANGUAGES
from data_modules.paths import resolve_path
from data_modules.records import PairRecord
from data_modules.text.cleaning import text_list
from data_modules.text.config import CaptionConfig

FORMS: tuple[str, ...] = ("name", "name_keywords", "keywords")
"""The three forms of a caption."""

Templates = Mapping[str, Mapping[str, Sequence[str]]]
"""Form -> language -> templates with `{name}` and `{keywords}`."""

PLAIN_TEMPLATES: Templates = {
    "name": {"ko": ["{name}"], "en": ["{name}"]},
    "name_keywords": {"ko": ["{name}: {keywords}"], "en": ["{name}: {keywords}"]},
    "keywords": {"ko": ["{keywords}"], "en": ["{keywords}"]},
}


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
