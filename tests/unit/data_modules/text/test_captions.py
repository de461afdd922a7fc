"""Sampling of captions: forms by their probability, keywords without repetition, templates."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_modules.errors import DataError
from data_modules.records import PairRecord
from data_modules.text.captions import FORMS, PLAIN_TEMPLATES, CaptionSampler, load_templates
from data_modules.text.config import CaptionConfig

WORDS = ("red", "fruit", "food", "sweet", "tree", "round", "pie")
NUM_DRAWS = 5000


def _record(**changes: Any) -> PairRecord:
    return PairRecord(**{"key": "1", "image": b"", "language": "en", "caption": "apple", "keywords": WORDS} | changes)


def _sample(config: CaptionConfig, record: PairRecord, number: int = NUM_DRAWS) -> list[str]:
    sampler, generator = CaptionSampler(config), np.random.default_rng(0)
    return [sampler(record, generator) for _ in range(number)]


def _templates(folder: Path, templates: object) -> str:
    file = folder / "templates.yaml"
    file.write_text(yaml.safe_dump(templates, allow_unicode=True), encoding="utf-8")
    return str(file)


def _form(caption: str) -> str:
    if caption == "apple":
        return "name"
    return "name_keywords" if caption.startswith("apple: ") else "keywords"


def _chi_square(counts: Counter[str], shares: dict[str, float]) -> float:
    total = sum(counts.values())
    return sum((counts[name] - share * total) ** 2 / (share * total) for name, share in shares.items())


def test_caption_sampler__forms_follow_their_probabilities() -> None:
    shares = {"name": 0.5, "name_keywords": 0.2, "keywords": 0.3}
    counts = Counter(_form(caption) for caption in _sample(CaptionConfig(**shares), _record()))
    assert _chi_square(counts, shares) < 13.8, "p = 0.001 at two degrees of freedom"


def test_caption_sampler__keywords_are_a_subset_without_repetition() -> None:
    captions = _sample(CaptionConfig(name=0, keywords=1, min_keywords=2, max_keywords=4), _record())
    drawn = [caption.split(", ") for caption in captions]
    assert all(len(set(words)) == len(words) and set(words) <= set(WORDS) for words in drawn)
    counts = Counter(str(len(words)) for words in drawn)
    assert set(counts) == {"2", "3", "4"}
    assert _chi_square(counts, dict.fromkeys(("2", "3", "4"), 1 / 3)) < 13.8
    first = Counter(words[0] for words in drawn)
    assert _chi_square(first, dict.fromkeys(WORDS, 1 / 7)) < 22.5, "p = 0.001 at six degrees of freedom"


@pytest.mark.parametrize(
    ("options", "record", "captions"),
    [
        ({"keywords": 1, "min_keywords": 3}, {"keywords": ("a", "b")}, {"a, b", "b, a"}),
        ({"name_keywords": 0.5, "keywords": 0.5}, {"keywords": ()}, {"apple"}),
        (
            {"name": 0.5, "keywords": 0.5},
            {"caption": "{keywords} {0}", "keywords": ("{name}",)},
            {"{keywords} {0}", "{name}"},
        ),
    ],
    ids=["few keywords", "no keywords", "braces are text"],
)
def test_caption_sampler__captions_of_a_record(
    options: dict[str, Any], record: dict[str, Any], captions: set[str]
) -> None:
    assert set(_sample(CaptionConfig(**{"name": 0} | options), _record(**record), 50)) == captions


def test_caption_sampler__templates_by_language_and_probability(tmp_path: Path) -> None:
    names = {"ko": ["{name}", "{name} 그림"], "en": ["{name}", "a {name}", "the {name}"]}
    other = {"ko": ["{keywords}"], "en": ["{keywords}"]}
    file = _templates(tmp_path, {"name": names, "name_keywords": other, "keywords": other})
    config = CaptionConfig(plain=0.6, templates_file=file)
    counts = Counter(_sample(config, _record()))
    assert _chi_square(counts, {"apple": 0.6, "a apple": 0.2, "the apple": 0.2}) < 13.8
    assert set(_sample(config, _record(language="ko", caption="사과"), 100)) == {"사과", "사과 그림"}


@pytest.mark.parametrize(("plain", "expected"), [(1.0, {"apple"}), (0.0, {"a apple", "the apple"})])
def test_caption_sampler__plain_share_at_its_ends(tmp_path: Path, plain: float, expected: set[str]) -> None:
    form = {"ko": ["{name}"], "en": ["{name}", "a {name}", "the {name}"]}
    config = CaptionConfig(plain=plain, templates_file=_templates(tmp_path, dict.fromkeys(FORMS, form)))
    assert set(_sample(config, _record(), 200)) == expected


def test_caption_sampler__the_draw_of_the_form_is_independent_of_the_template(tmp_path: Path) -> None:
    form = {"ko": ["{name}"], "en": ["plain", "other"]}
    templates = {"name": form, "name_keywords": form, "keywords": {"ko": ["k"], "en": ["k plain", "k other"]}}
    config = CaptionConfig(name=0.5, keywords=0.5, plain=0.5, templates_file=_templates(tmp_path, templates))
    counts = Counter(_sample(config, _record()))
    assert _chi_square(counts, dict.fromkeys(("plain", "other", "k plain", "k other"), 0.25)) < 16.3


def test_load_templates__shipped_file_has_every_form_and_language() -> None:
    templates = load_templates("package:assets/emoji_captions.yaml")
    for form in FORMS:
        for language in ("ko", "en"):
            filled = [text.format(name="NAME", keywords="WORDS") for text in templates[form][language]]
            assert len(set(filled)) == len(filled)
            assert templates[form][language][0] == PLAIN_TEMPLATES[form][language][0]
            assert all(("NAME" in text) == (form != "keywords") for text in filled)
            assert all(("WORDS" in text) == (form != "name") for text in filled)


def test_load_templates__a_text_is_one_template(tmp_path: Path) -> None:
    loaded = load_templates(_templates(tmp_path, {form: {"ko": "사진", "en": "a photo"} for form in FORMS}))
    assert loaded == {form: {"ko": ["사진"], "en": ["a photo"]} for form in FORMS}


@pytest.mark.parametrize(
    "templates",
    [
        {form: {"ko": ["{name}"], "en": {"{name}": 1}} for form in FORMS},
        {"name": {"ko": ["{name}"], "en": ["{name}"]}},
        None,
        ["{name}"],
        {form: {"ko": ["{name}"]} for form in FORMS},
        {form: {"ko": ["{name}"], "en": []} for form in FORMS},
        {form: {"ko": ["{name}"], "en": ["{nam}"]} for form in FORMS},
    ],
    ids=["mapping", "missing_form", "empty", "list", "missing_language", "no_template", "unknown_placeholder"],
)
def test_load_templates__unusable_file(tmp_path: Path, templates: object) -> None:
    with pytest.raises(DataError, match="templates_file"):
        load_templates(_templates(tmp_path, templates))
    with pytest.raises(DataError, match=r"templates_file: .*nowhere\.yaml does not exist"):
        load_templates("nowhere.yaml")
