"""Schema of a study file: a question, variants as overrides, base experiments (scales), and claims to decide."""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from data_modules.config_roles import at_least, check_ranges
from kelip_lightning.config.load import parse_override, read_experiment_file
from kelip_lightning.config.schema import build_section
from kelip_lightning.errors import ConfigError
from kelip_lightning.evaluation.metric_names import parse_metric, split_name, unit_of


@dataclass(kw_only=True, slots=True)
class VariantConfig:
    """A variant of the base experiment."""

    about: str
    """Short description for the report."""
    overrides: list[str] = field(default_factory=list)
    """`dotted.key=value`, as on the command line, after the scale's settings; empty: the base itself."""
    equal_compute: bool = False
    """Whether contrastive training gets as many steps as make the training operations of the whole run, MAE
    pre-training included, those of the reference."""

    def __post_init__(self) -> None:
        _check_overrides("overrides", self.overrides)


class Direction(Enum):
    """Where a claim expects a variant's metric, compared with the reference's."""

    higher = "higher"
    lower = "lower"


@dataclass(kw_only=True, slots=True)
class ClaimConfig:
    """A claim that the study decides, stated before its runs are looked at."""

    text: str
    """The claim, one sentence."""
    metrics: list[str]
    """The metrics that decide it, of those of the scale and of one unit; the items of several are taken together, and
    items with the same correct answer are one group."""
    variants: list[str] = field(default_factory=list)
    """The variants that are compared with the reference and corrected for together; empty: all."""
    direction: Direction
    """The expectation: `higher` or `lower` than the reference."""
    together: bool = False
    """Whether the variants are one group, whose mean is compared with the reference, instead of one by one."""
    category: str | None = None
    """Only the items of this category (`categories`), whose captions contain one of its words; `None`: all items."""
    smallest: float | None = field(default=None, metadata=at_least(1e-6, "a power needs a difference"))
    """The true difference whose power is reported, in points, or for cosines in their own unit, > 0; `None`: not yet
    known."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.metrics:
            raise ValueError("metrics is empty: name the metrics that decide the claim")
        units = {unit_of(metric) for metric in self.metrics}
        if len(units) > 1:
            raise ValueError("metrics has shares and differences of cosines, which have no common mean; use one unit")
        if len(sets := {split_name(metric)[0] for metric in self.metrics}) > 1:
            raise ValueError(
                f"metrics names the sets {', '.join(sorted(sets))}, and which of their items are dependent is not "
                "known; use metrics of one set"
            )
        for key, names in (("metrics", self.metrics), ("variants", self.variants)):
            if len(set(names)) < len(names):
                raise ValueError(f"{key} names {_first_twice(names)} twice; name it once")


@dataclass(kw_only=True, slots=True)
class ScaleConfig:
    """A base experiment of the study, for example on the embedded corpus or at the paper's scale."""

    base: str
    """The experiment's YAML file, relative to the study file."""
    settings: list[str] = field(default_factory=list)
    """Overrides for every variant."""
    quick: str | None = None
    """The experiment's YAML file under `--quick`, instead of `base`."""
    metrics: list[str]
    """The judged metrics, for example `eval/unseen_design_ko/image_to_text_R@1`; R@K or topK, any K, or
    `eval/captions/matched_minus_random`."""
    variants: dict[str, VariantConfig] = field(default_factory=dict)
    """Name -> variants of this scale only."""
    claims: dict[str, ClaimConfig] = field(default_factory=dict)
    """Name -> claim that the study decides at this scale."""

    def __post_init__(self) -> None:
        _check_overrides("settings", self.settings)
        if not self.metrics:
            raise ValueError("metrics is empty: name at least one metric to judge")
        for metric in self.metrics:
            parse_metric(metric)
        for name, claim in self.claims.items():
            for metric in claim.metrics:
                if metric not in self.metrics:
                    raise ValueError(
                        f"claims.{name}.metrics names {metric}, which is not judged; use some of "
                        f"{', '.join(self.metrics)}, or add it to metrics"
                    )


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
        for scale in self.scales:
            self._check_claims(scale)
        for category, languages in self.categories.items():
            if unknown := sorted(set(languages) - {"ko", "en"}):
                raise ValueError(f"categories.{category} names the language {unknown[0]!r}: use ko or en")

    def _check_claims(self, scale: str) -> None:
        """Raises `ValueError` for a claim about an unknown variant, the reference, or an unknown category."""
        compared = [name for name in self.variants_at(scale) if name != self.reference]
        for name, claim in self.scales[scale].claims.items():
            for variant in claim.variants:
                if variant not in compared:
                    raise ValueError(
                        f"scales.{scale}.claims.{name}.variants names {variant!r}, which is not compared with the "
                        f"reference; use some of {', '.join(compared)}"
                    )
            if claim.category is not None and claim.category not in self.categories:
                raise ValueError(
                    f"scales.{scale}.claims.{name}.category = {claim.category!r} is none of the study's categories "
                    f"({', '.join(self.categories) or 'it has none'})"
                )

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


def _first_twice(names: list[str]) -> str:
    return next(name for place, name in enumerate(names) if name in names[:place])
