"""Settings of the analyses of a trained model (`kelip analyze`)."""

from dataclasses import dataclass, field

from data_modules.benchmarks.config import AnalogySetConfig, CaptionSetConfig, ChoiceSetConfig, GalleryConfig
from data_modules.config_roles import FILE_PATH, REPORTING, at_least, check_ranges
from data_modules.languages import LANGUAGES
from data_modules.text.particles import check_template


@dataclass(kw_only=True, slots=True)
class ResamplingConfig:
    """Bootstrap confidence intervals."""

    seed: int = field(default=0, metadata=at_least(0))
    """Seed of the resamples and of all other random draws."""
    num_resamples: int = field(default=2000, metadata=at_least(100))
    """Bootstrap resamples of each 95 % interval."""

    def __post_init__(self) -> None:
        check_ranges(self)


def _bare_templates() -> dict[str, list[str]]:
    return {language: ["{}"] for language in LANGUAGES}


@dataclass(kw_only=True, slots=True)
class CrossLingualAnalysis:
    """Similarity of Korean and English captions of the same meaning: `kelip analyze cross-lingual`."""

    captions: dict[str, CaptionSetConfig]
    """Name -> captions of the same items in both languages."""
    gallery: GalleryConfig | None = None
    """Images for the distance between texts and images; null: only the distance between languages."""
    resampling: ResamplingConfig = field(default_factory=ResamplingConfig)
    """Bootstrap; its seed also initialises the untrained control model."""

    def __post_init__(self) -> None:
        if not self.captions:
            raise ValueError("captions is empty: name at least one caption set")


@dataclass(kw_only=True, slots=True)
class TrainedWordsConfig:
    """Word pairs from the run's own training texts, whose true overlap is known (docs/analyses.md).

    Where the run has planted differences (`data.planted`), the analysis reports how many of them it finds.
    """

    column: str = "concept"
    """Column of the training tables that identifies concepts; where differences are planted, that of `data.planted`."""
    cluster: str | None = None
    """Column of the training tables; pairs whose concepts have the same value are resampled together. null: each pair
    alone."""
    min_concepts: int = field(default=1, metadata=at_least(1))
    """Fewest concepts that each word of a pair names."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(kw_only=True, slots=True)
class CultureAnalysis:
    """Images retrieved by Korean and English words of the same meaning: `kelip analyze culture`."""

    word_pairs: str | None = field(default=None, metadata=FILE_PATH)
    """YAML with `pairs` and `controls`, each topic -> list of [Korean, English]; null: see trained_words."""
    trained_words: TrainedWordsConfig | None = None
    """Word pairs from the training texts of the run; null: those of `word_pairs`."""
    gallery: GalleryConfig
    """Images that are ranked under every word."""
    templates: dict[str, list[str]] = field(default_factory=_bare_templates)
    """Language -> prompt templates with `{}` for the word, `{은/는}` for a particle; embeddings are averaged."""
    top_k: int = field(default=10, metadata=at_least(1))
    """Number of top-ranked images that are compared and shown."""
    num_draws: int = field(default=9999, metadata=at_least(999))
    """Draws of the null distribution per pair; 1 / num_draws should be far below 0.05 / number of pairs."""
    num_shown: int = field(default=12, metadata=REPORTING | at_least(0))
    """Pairs in the plot, smallest p-values first."""
    choices: dict[str, ChoiceSetConfig] = field(default_factory=dict)
    """Name -> multiple-choice questions about images (such as K-Viscuit)."""
    resampling: ResamplingConfig = field(default_factory=ResamplingConfig)
    """Bootstrap; its seed is also used for the null draws."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_templates(self.templates)
        if (self.word_pairs is None) == (self.trained_words is None):
            raise ValueError(
                "name either word_pairs, a file of words, or trained_words, the words of the run's training texts"
            )
        if self.trained_words is not None and self.choices:
            raise ValueError(
                "choices has no effect beside trained_words; analyse them with word_pairs, or remove choices"
            )


@dataclass(kw_only=True, slots=True)
class AnalogyAnalysis:
    """Image + λ (target text − source text): `kelip analyze analogy`."""

    sets: dict[str, AnalogySetConfig]
    """Name -> gallery and relations."""
    templates: dict[str, list[str]] = field(default_factory=_bare_templates)
    """Language -> prompt templates with `{}` for the term's word, `{은/는}` for a particle."""
    num_shown: int = field(default=2, metadata=REPORTING | at_least(0))
    """Queries of each relation in the plot."""
    resampling: ResamplingConfig = field(default_factory=ResamplingConfig)
    """Bootstrap."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_templates(self.templates)
        if not self.sets:
            raise ValueError("sets is empty: name at least one gallery with relations")


Analysis = CrossLingualAnalysis | CultureAnalysis | AnalogyAnalysis

ANALYSES: dict[str, type[Analysis]] = {
    "cross-lingual": CrossLingualAnalysis,
    "culture": CultureAnalysis,
    "analogy": AnalogyAnalysis,
}
"""Name on the command line -> schema."""


def _check_templates(templates: dict[str, list[str]]) -> None:
    if set(templates) != set(LANGUAGES) or not all(templates.values()):
        raise ValueError(f"templates must be given in {' and '.join(LANGUAGES)}, one or more each")
    for one in (template for sentences in templates.values() for template in sentences):
        check_template(one, "templates")
