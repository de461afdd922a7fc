"""Layout of the shipped corpus: files, columns and manifest."""

import hashlib
from pathlib import Path

CORPUS_FOLDER = Path(__file__).parent
MANIFEST_NAME = "manifest.json"
MANIFEST_PATH_IN_REPOSITORY = "data_modules/emoji"

STRING_COLUMNS = (
    "key",
    "concept",
    "emoji",
    "code_points",
    "design",
    "group",
    "subgroup",
    "name_ko",
    "name_en",
    "family",
    "split",
)
LIST_COLUMNS = ("keywords_ko", "keywords_en")
COLUMNS = (
    "key",
    "image",
    "concept",
    "emoji",
    "code_points",
    "design",
    "group",
    "subgroup",
    "name_ko",
    "name_en",
    "keywords_ko",
    "keywords_en",
    "skin_tone",
    "family",
    "split",
)


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
