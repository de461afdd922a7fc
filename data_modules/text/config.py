"""Settings of captions and tokenizer."""

from dataclasses import dataclass, field

from data_modules.config_roles import FILE_PATH, at_least, between, check_ranges


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
    templates_file: str | None = field(default=None, metadata=FILE_PATH)
    """YAML file form -> language -> templates; `None`: no templates."""

    def __post_init__(self) -> None:
        check_ranges(self)
        total = self.name + self.name_keywords + self.keywords
        if abs(total - 1) > 1e-6:
            raise ValueError(f"name, name_keywords and keywords are probabilities that must sum to 1, not {total:g}")
        if self.min_keywords > self.max_keywords:
            raise ValueError(f"min_keywords = {self.min_keywords} must not exceed max_keywords = {self.max_keywords}")


@dataclass(kw_only=True, slots=True)
class TokenizerConfig:
    """The tokenizer of a run."""

    vocab_size: int = field(default=4000, metadata=at_least(259, "256 bytes and 3 special tokens"))
    """Largest vocabulary (paper: 98,818); a small corpus may give fewer tokens."""
    context_length: int = field(default=32, metadata=at_least(3, "start, one token and end"))
    """Maximum caption length in tokens, start and end included (paper: 77)."""
    file: str | None = field(default=None, metadata=FILE_PATH)
    """A `tokenizer.json`, copied into the run; `None`: trained on the training captions of the run."""
    max_training_pairs: int = field(default=2_000_000, metadata=at_least(1))
    """In a larger pair set, every n-th row of each source is used for training, about this many pairs in total."""

    def __post_init__(self) -> None:
        check_ranges(self)
