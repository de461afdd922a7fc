"""docs/config.md says what the section classes say."""

from dataclasses import dataclass, fields

import pytest

from kelip_lightning.config.analysis import ANALYSES
from kelip_lightning.config.document import FILE, attribute_docstrings, config_page, sections_of
from kelip_lightning.config.experiment import SCHEMAS
from tests.paths import ROOT


@dataclass(kw_only=True, slots=True)
class Undocumented:
    """A section with a bare field."""

    told: int = 1
    """Is told."""
    untold: int = 2


def test_config_page__is_not_stale() -> None:
    assert (ROOT / FILE).read_text(encoding="utf-8") == config_page(), (
        "docs/config.md is stale: run python -m kelip_lightning.config.document"
    )


def test_attribute_docstrings__every_field_of_every_section() -> None:
    for kind in sections_of((*SCHEMAS, *ANALYSES.values())):
        assert set(attribute_docstrings(kind)) == {field.name for field in fields(kind)}


def test_attribute_docstrings__missing() -> None:
    with pytest.raises(ValueError, match=r"Undocumented\.untold has no docstring"):
        attribute_docstrings(Undocumented)
