"""An ablation as data: a question, variants as overrides, and the experiments at which it is asked."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from data_modules.config_roles import at_least, check_ranges
from kelip_lightning.config.load import parse_override, read_experiment_file
from kelip_lightning.config.schema import build_section
from kelip_lightning.errors import ConfigError
from kelip_lightning.evaluation.tasks import MATCHED_MINUS_RANDOM


@dataclass(kw_only=True, slots=True)
class VariantConfig:
    """One way of training."""

    about: str
    """What it is, in a few words, for the report."""
    overrides: list[str] = field(default_factory=list)
    """`dotted.key=value`, as on the command line, on top of the scale's settings; empty: the base as it is."""

    def __post_init__(self) -> None:
        _check_overrides("overrides", self.overrides)


@dataclass(kw_only=True, slots=True)
class ScaleConfig:
    """One experiment at which the question is asked: the embedded corpus, say, or the paper's scale."""

    base: str
    """The experiment, a YAML file relative to this one."""
    settings: list[str] = field(default_factory=list)
    """Overrides for every variant."""
    quick: list[str] = field(default_factory=list)
    """Further overrides for every variant under `--quick`."""
    metrics: list[str]
    """The metrics that are judged, for example `eval/unseen_design_ko/image_to_text_R@1`; R@K or topK, any K, or
    `eval/captions/matched_minus_random`."""
    variants: dict[str, VariantConfig] = field(default_factory=dict)
    """Name -> variants that make sense at this scale only."""

    def __post_init__(self) -> None:
        _check_overrides("settings", self.settings)
        _check_overrides("quick", self.quick)
        if not self.metrics:
            raise ValueError("metrics is empty: name at least one metric that is to be judged")
        for metric in self.metrics:
            parse_metric(metric)


@dataclass(kw_only=True, slots=True)
class AblationConfig:
    """A study: every variant is trained with every seed, and compared with the reference."""

    question: str
    """What is asked, one sentence."""
    paper: str
    """What the paper found, or that its numbers are not known."""
    seeds: int = field(default=3, metadata=at_least(2, "one run has no spread"))
    """Number of seeds, counted from 0; at least 2, since one run has no spread."""
    reference: str
    """The variant that the others are compared with."""
    scales: dict[str, ScaleConfig]
    """Name -> experiment; the first is the default."""
    variants: dict[str, VariantConfig]
    """Name -> variant, at every scale."""
    categories: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Category (colour, ...) -> language -> words: items whose text has one of them are judged apart as well."""

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
    """Read and check a study; its base experiments are looked at when a scale is chosen.

    Raises:
        ConfigError: All problems together, one sentence each.
    """
    tree, _ = read_experiment_file(file)
    problems: list[str] = []
    study = build_section(AblationConfig, tree, "", problems)
    if problems:
        raise ConfigError([f"{file}: {problem}" for problem in dict.fromkeys(problems)])
    return study


def parse_metric(metric: str) -> tuple[str, int | None]:
    """The task and the K of a metric: `eval/a_ko/image_to_text_R@5` counts ranks below 5 of `eval/a_ko/image_to_text`.

    `eval/a/matched_minus_random` is a task whose outcomes are metrics already, and has no K.

    Raises:
        ValueError: The text is no such metric.
    """
    if re.fullmatch(rf"eval/[^/]+/{MATCHED_MINUS_RANDOM}", metric):
        return metric, None
    found = re.fullmatch(r"(eval/[^/]+/.+)_(?:R@|top)(\d+)", metric)
    if not found or int(found[2]) < 1:
        raise ValueError(
            f"metric {metric!r} must read like eval/SET_ko/image_to_text_R@1, eval/SET/ko_to_en_R@1, "
            f"eval/SET_ko/zero_shot_top1 or eval/SET/{MATCHED_MINUS_RANDOM}"
        )
    return found[1], int(found[2])


def _check_overrides(key: str, overrides: list[str]) -> None:
    for text in overrides:
        try:
            parse_override(text)
        except ConfigError as error:
            raise ValueError(f"{key}: {error}") from error
