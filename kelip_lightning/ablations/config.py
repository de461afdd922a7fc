"""Schema of a study file: a question, variants as overrides, and base experiments (scales)."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from data_modules.config_roles import at_least, check_ranges
from kelip_lightning.config.load import parse_override, read_experiment_file
from kelip_lightning.config.schema import build_section
from kelip_lightning.errors import ConfigError
from kelip_lightning.evaluation.metric_names import parse_metric


@dataclass(kw_only=True, slots=True)
class VariantConfig:
    """A variant of the base experiment."""

    about: str
    """Short description for the report."""
    overrides: list[str] = field(default_factory=list)
    """`dotted.key=value`, as on the command line, after the scale's settings; empty: the base itself."""

    def __post_init__(self) -> None:
        _check_overrides("overrides", self.overrides)


@dataclass(kw_only=True, slots=True)
class ScaleConfig:
    """A base experiment of the study, for example on the embedded corpus or at the paper's scale."""

    base: str
    """The experiment's YAML file, relative to the study file."""
    settings: list[str] = field(default_factory=list)
    """Overrides for every variant."""
    quick: list[str] = field(default_factory=list)
    """Further overrides for every variant under `--quick`."""
    metrics: list[str]
    """The judged metrics, for example `eval/unseen_design_ko/image_to_text_R@1`; R@K or topK, any K, or
    `eval/captions/matched_minus_random`."""
    variants: dict[str, VariantConfig] = field(default_factory=dict)
    """Name -> variants of this scale only."""

    def __post_init__(self) -> None:
        _check_overrides("settings", self.settings)
        _check_overrides("quick", self.quick)
        if not self.metrics:
            raise ValueError("metrics is empty: name at least one metric to judge")
        for metric in self.metrics:
            parse_metric(metric)


@dataclass(kw_only=True, slots=True)
class AblationConfig:
    """A study: every variant is trained with every seed and compared with the reference."""

    question: str
    """The question, one sentence."""
    paper: str
    """The paper's result, or that its numbers are unknown."""
    seeds: int = field(default=3, metadata=at_least(2, "one run has no spread"))
    """Number of seeds, from 0; at least 2, because one run has no variance."""
    reference: str
    """The variant to which the others are compared."""
    scales: dict[str, ScaleConfig]
    """Name -> base experiment; the first is the default."""
    variants: dict[str, VariantConfig]
    """Name -> variant, at every scale."""
    categories: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Category (colour, ...) -> language -> words; items whose text contains one are also judged separately."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.scales:
            raise ValueError("scales is empty: name at least one with its base")
        for name in [*self.scales, *self.variants, *(one for scale in self.scales.values() for one in scale.variants)]:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
                raise ValueError(f"{name!r} becomes a folder: use lower-case letters, digits and _ . -")
        if self.reference not in self.variants:
            raise ValueError(f"reference = {self.reference!r} is none of the variants {', '.join(self.variants)}")
        for scale, config in self.scales.items():
            if twice := sorted(set(config.variants) & set(self.variants)):
                raise ValueError(f"scales.{scale}.variants.{twice[0]} is a variant at every scale already; rename one")
        for category, languages in self.categories.items():
            if unknown := sorted(set(languages) - {"ko", "en"}):
                raise ValueError(f"categories.{category} names the language {unknown[0]!r}: use ko or en")

    def variants_at(self, scale: str) -> dict[str, VariantConfig]:
        """The variants at a scale, reference first."""
        every = {**self.variants, **self.scales[scale].variants}
        return {self.reference: every[self.reference], **every}


def load_ablation(file: Path) -> AblationConfig:
    """Read and validate a study; its base experiments are loaded when a scale is selected.

    Raises:
        ConfigError: Lists all problems.
    """
    tree, _ = read_experiment_file(file)
    problems: list[str] = []
    study = build_section(AblationConfig, tree, "", problems)
    if problems:
        raise ConfigError([f"{file}: {problem}" for problem in dict.fromkeys(problems)])
    return study


def _check_overrides(key: str, overrides: list[str]) -> None:
    for text in overrides:
        try:
            parse_override(text)
        except ConfigError as error:
            raise ValueError(f"{key}: {error}") from error
