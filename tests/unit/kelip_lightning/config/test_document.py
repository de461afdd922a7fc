"""docs/config.md, and what every field of every section must have."""

from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import pytest

from data_modules.config_roles import range_of
from kelip_lightning.ablations.config import AblationConfig
from kelip_lightning.config.analysis import ANALYSES
from kelip_lightning.config.document import FILE, attribute_docstrings, config_page, sections_of
from kelip_lightning.config.experiment import SCHEMAS
from kelip_lightning.config.schema import without_none
from tests.paths import ROOT


@dataclass(kw_only=True, slots=True)
class Undocumented:
    """A section with a bare field."""

    documented: int = 1
    """A docstring."""
    bare: int = 2


def test_config_page__is_not_stale() -> None:
    assert (ROOT / FILE).read_text(encoding="utf-8") == config_page(), (
        "docs/config.md is stale: run python -m kelip_lightning.config.document"
    )


def test_attribute_docstrings__every_field_of_every_section() -> None:
    for kind in sections_of((*SCHEMAS, *ANALYSES.values())):
        assert set(attribute_docstrings(kind)) == {field.name for field in fields(kind)}


def test_attribute_docstrings__missing() -> None:
    with pytest.raises(ValueError, match=r"Undocumented\.bare has no docstring"):
        attribute_docstrings(Undocumented)


@pytest.mark.parametrize("kind", sections_of((*SCHEMAS, *ANALYSES.values(), AblationConfig)))
def test_ranges__every_number_has_one_and_construction_checks_it(kind: type[Any]) -> None:
    for field in fields(kind):
        limits = range_of(field)
        if without_none(get_type_hints(kind)[field.name])[0] in (int, float):
            assert limits or field.name == "initial_logit_bias", field.name
        if limits:
            section = object.__new__(kind)
            setattr(section, field.name, -1)
            with pytest.raises(ValueError, match=rf"^{field.name} = -1 must be "):
                section.__post_init__()
