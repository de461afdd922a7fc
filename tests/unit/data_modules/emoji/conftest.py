"""The shipped corpus, read once."""

from typing import Any

import pyarrow.parquet as pq
import pytest

from data_modules.emoji.concepts import Concept, read_concepts
from data_modules.emoji.verify import CORPUS_FOLDER, read_manifest

Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def manifest() -> dict[str, Any]:
    return read_manifest(CORPUS_FOLDER)


@pytest.fixture(scope="session")
def corpus(manifest: dict[str, Any]) -> dict[str, Rows]:
    """From design to its rows, images still encoded."""
    return {
        entry["design"]: pq.read_table(CORPUS_FOLDER / name).to_pylist() for name, entry in manifest["files"].items()
    }


@pytest.fixture(scope="session")
def concepts() -> list[Concept]:
    return read_concepts()
