"""What tells one content of the evaluation sets' files from another, without reading them."""

from data_modules.benchmarks.evaluation_sets import EvaluationConfig
from data_modules.sources.fingerprint import FileFingerprint, table_fingerprint, text_fingerprint


def evaluation_fingerprints(config: EvaluationConfig) -> dict[str, tuple[FileFingerprint, ...]]:
    """`retrieval.NAME`, `captions.NAME`, `classification.NAME` -> what is known of a set's files without reading them.

    Raises:
        DataError: A file is missing or damaged.
    """
    tables = {f"retrieval.{name}": one.table for name, one in config.retrieval.items()}
    tables |= {f"captions.{name}": one.table for name, one in config.captions.items()}
    tables |= {f"classification.{name}": one.table for name, one in config.classification.items()}
    found = {name: table_fingerprint(table.files) for name, table in tables.items()}
    for name, classes in config.classification.items():
        found[f"classification.{name}"] += (text_fingerprint(classes.classes_file),)
    return found
