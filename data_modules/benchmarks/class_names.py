"""Names and prompt templates of the classes of a zero-shot classification, from a YAML file."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_modules.errors import DataError
from data_modules.languages import LANGUAGES
from data_modules.paths import resolve_path
from data_modules.sources.tables import as_text
from data_modules.text.cleaning import text_list
from data_modules.text.particles import check_template

_FORM = "`classes`, id -> names in ko or en, and `templates`, language -> a text or a list of texts"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassNames:
    """K classes with their names and the templates of their prompts."""

    ids: list[str]
    """K ids in the file's order; a position is a label."""
    names: dict[str, list[list[str]]]
    """Language -> K lists of names; an empty list: the class has no name in this language and is left out in it."""
    templates: dict[str, list[str]]
    """Language -> one or more templates, as `particles.fill_template` takes them."""


def read_class_names(file: str, context: str) -> ClassNames:
    """The classes of a YAML file with `classes` and `templates`.

    The file may also have `about` (a text or a mapping), and `shared_names` (names that two classes have on purpose).
    A class maps `ko` and `en` to a name or a list of names, and optionally `provenance` to a text or a mapping. The
    languages of a file are the keys of `templates`.

    Args:
        file: May be a `package:` path.
        context: Key or set that the messages start with.

    Raises:
        DataError: The file is missing or no YAML of this form, a name is blank or belongs to two classes, a class has
            no name, a language has no templates, or a template is unusable.
    """
    path = resolve_path(file)
    if not path.is_file():
        raise DataError(f"{context}: {path} does not exist; correct the path")
    at = f"{context}: {path}"
    tree = _load(path, at)
    templates = _templates(tree["templates"], at)
    classes = {as_text(one): _names(as_text(one), given, templates, at) for one, given in tree["classes"].items()}
    if len(classes) < len(tree["classes"]):
        raise DataError(f"{at}: two classes have the same id as text; rename one of them")
    names = {language: [one[language] for one in classes.values()] for language in templates}
    for language in templates:
        _check_distinct(list(classes), names[language], language, at, _shared_names(tree, at))
    return ClassNames(ids=list(classes), names=names, templates=templates)


def _load(path: Path, at: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{at} is not YAML ({' '.join(str(error).split())}); correct it there") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("templates"), dict) or not tree["templates"]:
        raise DataError(f"{at} needs {_FORM}; add `templates`")
    if not isinstance(tree.get("classes"), dict) or not tree["classes"]:
        raise DataError(f"{at} needs {_FORM}; it has no classes")
    if unknown := tree.keys() - {"about", "classes", "templates", "shared_names"}:
        raise DataError(
            f"{at} has the unknown key '{min(map(str, unknown))}'; it may hold `about`, `shared_names`, {_FORM}"
        )
    return tree


def _templates(given: Mapping[str, object], at: str) -> dict[str, list[str]]:
    templates: dict[str, list[str]] = {}
    for language, texts in given.items():
        if language not in LANGUAGES:
            raise DataError(f"{at}: templates.{language} is no language; use {' or '.join(LANGUAGES)}")
        try:
            templates[language] = text_list(texts)
        except ValueError as error:
            raise DataError(f"{at}: templates.{language}: {error}; write one or more templates") from error
        for template in templates[language]:
            check_template(template, f"{at}: templates.{language}")
    return templates


def _names(one: str, given: object, templates: Mapping[str, object], at: str) -> dict[str, list[str]]:
    if not isinstance(given, dict):
        raise DataError(f"{at}: the class '{one}' holds {given!r}; write its names as `ko: name` and `en: name`")
    if unknown := given.keys() - {*LANGUAGES, "provenance"}:
        raise DataError(
            f"{at}: the class '{one}' has the unknown key '{min(map(str, unknown))}'; "
            f"it may hold {', '.join(LANGUAGES)} and provenance"
        )
    named = [language for language in LANGUAGES if language in given]
    if not named:
        raise DataError(f"{at}: the class '{one}' has no name in any language; add one, or remove the class")
    if missing := [language for language in named if language not in templates]:
        raise DataError(f"{at}: the class '{one}' has a name in {missing[0]}; add templates.{missing[0]}")
    try:
        return {language: text_list(given[language]) if language in given else [] for language in templates}
    except ValueError as error:
        raise DataError(f"{at}: the class '{one}' has an unusable name: {error}; write a name, or a list") from error


def _shared_names(tree: Mapping[str, Any], at: str) -> set[str]:
    try:
        return set(text_list(tree["shared_names"])) if "shared_names" in tree else set()
    except ValueError as error:
        raise DataError(f"{at}: shared_names: {error}; list the names that two classes have on purpose") from error


def _check_distinct(ids: list[str], names: list[list[str]], language: str, at: str, shared: Set[str]) -> None:
    owners: dict[str, str] = {}
    for one, own in zip(ids, names, strict=True):
        for name in own:
            other = owners.setdefault(name, one)
            if other != one and name not in shared:
                raise DataError(
                    f"{at}: the {language} name '{name}' belongs to the classes '{other}' and '{one}'; "
                    "give each its own name, merge the classes, or list the name in `shared_names`"
                )
