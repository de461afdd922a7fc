"""The settings of one source of pairs."""

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """Parquet files whose rows hold an image and its captions in one or more languages.

    Each row gives one pair per language in `captions`.
    """

    files: list[str]
    """Parquet files or glob patterns; `package:` paths are relative to the installed `data_modules` folder."""
    image: str = "image"
    """Column of encoded images (Hugging Face `Image` feature: a struct with `bytes`)."""
    captions: dict[str, str] = field(default_factory=dict)
    """Language (`ko`, `en`) -> caption column."""
    keywords: dict[str, str] = field(default_factory=dict)
    """Language -> column with a list of keywords; a language without one draws captions only."""
    key: str = "key"
    """Column that identifies an image in logs."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Column -> allowed values, compared as text (`true`/`false` for booleans); a row must satisfy all."""
    weight: float = 1.0
    """Passes over this source per epoch of the mixture, > 0 (0.2: each pair once in five epochs)."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files is empty: name at least one parquet file")
        if not self.captions:
            raise ValueError("captions is empty: name a caption column for ko, en or both")
        unknown = sorted((set(self.captions) | set(self.keywords)) - {"ko", "en"})
        if unknown:
            raise ValueError(f"language {unknown[0]!r} is not known: use ko or en")
        if self.weight <= 0:
            raise ValueError(f"weight = {self.weight} must be above 0: remove the source to leave it out")
