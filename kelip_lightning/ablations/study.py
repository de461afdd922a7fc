"""The planned runs of a study: every variant with every seed, validated before any of them starts.

The plans, which import torch, are made after all variants have been checked.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_modules.config_roles import Role
from data_modules.languages import LANGUAGES
from kelip_lightning.ablations.config import AblationConfig, ScaleConfig, load_ablation
from kelip_lightning.config.experiment import ContrastiveExperiment, Experiment, PretrainExperiment
from kelip_lightning.config.fingerprint import role_of_key, training_fingerprint
from kelip_lightning.config.load import (
    PLACE,
    check_heavy_rules,
    difference,
    find_schema,
    load_experiment,
    parse_override,
    stage_schemas,
)
from kelip_lightning.config.schema import has_key
from kelip_lightning.errors import ConfigError
from kelip_lightning.evaluation.metric_names import parse_metric

if TYPE_CHECKING:
    from kelip_lightning.planning.stage_plan import Plan

Trained = PretrainExperiment | ContrastiveExperiment

SET_BY_STUDY = (*sorted(PLACE), "seed")
"""Keys of an experiment that the study sets for each run."""
QUICK_SEEDS = 2
"""The minimum that has a variance; quick runs only test the pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Command line options that select the runs of a study."""

    scale: str | None = None
    """Name of a scale; `None`: the first."""
    seeds: int | None = None
    """Number of seeds; `None`: the study's, or `QUICK_SEEDS` with the quick settings."""
    quick: bool = False
    """Whether the scale's `quick` experiment is trained instead of its `base`."""
    output: Path = Path("runs/ablations")
    """Folder of all studies and their runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One variant with one seed."""

    variant: str
    seed: int
    verb: str
    """pretrain or contrastive."""
    overrides: list[str]
    """All overrides except name and output_dir."""
    experiment: Trained
    fingerprint: str
    """Of the settings with the role identity: runs with equal ones, data and code are the same run."""
    differences: list[str]
    """`key: old -> new` against the base file."""
    plan: "Plan"

    @property
    def name(self) -> str:
        """Name of the run's folder if this study trains it."""
        return f"{self.variant}-{self.seed}-{self.fingerprint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study at one scale, ready to run."""

    name: str
    """The file's stem, with the suffix `-quick` for the quick settings."""
    file: Path
    config: AblationConfig
    scale_name: str
    scale: ScaleConfig
    base: Path
    runs: list[PlannedRun]
    output: Path
    quick: bool = False
    """Whether the quick settings apply, which only test that the study works."""

    @property
    def pool(self) -> Path:
        """The folder of the scale's runs, shared by all studies."""
        return self.output / self.scale_name / "runs"

    @property
    def folder(self) -> Path:
        """The folder of the report."""
        return self.output / self.scale_name / self.name

    @property
    def variants(self) -> list[str]:
        """Names, reference first."""
        return list(dict.fromkeys(run.variant for run in self.runs))


def open_study(file: Path, choice: Choice, *, on_this_machine: bool = True) -> Study:
    """Load a study and every one of its runs.

    Args:
        file: The study.
        choice: Scale, seeds, quick.
        on_this_machine: Whether files and devices that the experiments name must exist.

    Raises:
        ConfigError: The study, its base, or any variant is invalid; lists the problems of all variants.
    """
    config = load_ablation(file)
    scale_name = choice.scale or next(iter(config.scales))
    if scale_name not in config.scales:
        raise ConfigError([f"--scale {scale_name}: {file} has the scales {', '.join(config.scales)}; use one of them"])
    scale = config.scales[scale_name]
    named = scale.quick if choice.quick else scale.base
    if named is None:
        raise ConfigError([f"--quick: {file} has no scales.{scale_name}.quick; leave --quick out"])
    base = Path(os.path.normpath(file.parent / named))
    seeds = choice.seeds if choice.seeds is not None else QUICK_SEEDS if choice.quick else config.seeds
    overrides = {name: [*scale.settings, *one.overrides] for name, one in config.variants_at(scale_name).items()}
    schema = find_schema(base, (PretrainExperiment, ContrastiveExperiment))
    whole = load_experiment(base, [], schema, on_this_machine=False, heavy=False).experiment
    variants, problems = _load_variants(base, schema, overrides, on_this_machine)
    equal = [name for name, one in config.variants_at(scale_name).items() if one.equal_compute]
    if equal and not problems:
        problems = _equalise(variants, equal, config.reference, overrides)
        variants, more = _load_variants(base, schema, overrides, on_this_machine)
        problems += more
    problems = [*_forbidden_overrides(config, scale_name, schema), *problems]
    problems += [] if problems else [*_unknown_metrics(scale, scale_name, variants), *_equal_variants(variants)]
    problems += [] if problems else _heavy_problems(variants, on_this_machine)
    if problems:
        raise ConfigError([f"{file}: {problem}" for problem in problems])
    runs = [run for name, one in variants.items() for run in _plan_variant(whole, name, one, overrides[name], seeds)]
    return Study(
        name=f"{file.stem}-quick" if choice.quick else file.stem,
        file=file,
        config=config,
        scale_name=scale_name,
        scale=scale,
        base=base,
        runs=runs,
        output=choice.output,
        quick=choice.quick,
    )


def _equalise(
    variants: Mapping[str, Trained], equal: Sequence[str], reference: str, overrides: Mapping[str, list[str]]
) -> list[str]:
    """Adds to the overrides of these variants the number of steps that makes their operations the reference's.

    Returns:
        Problems: of variants whose MAE pre-training leaves no operations, and of the reference.
    """
    if reference in equal:
        return [f"variant {reference}: equal_compute compares with the reference, which this is; leave it out"]
    from kelip_lightning.planning.flops import operations_per_sample, training_operations
    from kelip_lightning.planning.stage_plan import stages_of

    aim, problems = sum(map(training_operations, stages_of(variants[reference]).values())), []
    for name in equal:
        stages = stages_of(variants[name])
        stage = stages.pop("contrastive")
        left = aim - sum(map(training_operations, stages.values()))
        steps = round(left / (operations_per_sample(stage) * stage.data.global_batch_size))
        if steps < 1:
            problems.append(f"variant {name}: its MAE pre-training takes more operations than {reference} in all")
            continue
        at = "" if isinstance(variants[name], ContrastiveExperiment) else "contrastive."
        warmup = min(stage.schedule.warmup_steps, steps - 1)
        overrides[name] += [f"{at}schedule.max_steps={steps}", f"{at}schedule.warmup_steps={warmup}"]
    return problems


def _forbidden_overrides(config: AblationConfig, scale_name: str, schema: type[Trained]) -> list[str]:
    """Overrides of keys that the study sets, and variants' overrides of reporting keys."""
    stages, scale = stage_schemas(schema), config.scales[scale_name]
    problems = []
    shared = {f"scales.{scale_name}.settings": scale.settings}
    variants = {f"variant {name}": one.overrides for name, one in config.variants_at(scale_name).items()}
    for where, overrides in {**shared, **variants}.items():
        for text in overrides:
            keys, _ = parse_override(text)
            inner = keys[1:] if keys[0] in stages else keys
            kind = next((one for one in (schema, *stages.values()) if has_key(one, keys)), None)
            if len(inner) == 1 and inner[0] in SET_BY_STUDY:
                problems.append(f"{where}: {text!r} sets {inner[0]}, which the study sets; remove it")
            elif where in variants and kind is not None and role_of_key(kind, keys) is Role.reporting:
                problems.append(
                    f"{where}: {text!r} changes what is reported, not what is trained, which is the same for all "
                    f"variants; move it to scales.{scale_name}.settings"
                )
    return problems


def contrastive_of(experiment: Experiment) -> ContrastiveExperiment:
    """The stage that is evaluated."""
    stage = experiment.contrastive if isinstance(experiment, PretrainExperiment) else experiment
    assert isinstance(stage, ContrastiveExperiment)
    return stage


def _load_variants(
    base: Path, schema: type[Trained], overrides: Mapping[str, Sequence[str]], on_this_machine: bool
) -> tuple[dict[str, Trained], list[str]]:
    """Each variant with seed 0, and the problems of those that cannot be loaded; the heavy rules are not checked."""
    loaded: dict[str, Trained] = {}
    problems: list[str] = []
    for name, own in overrides.items():
        try:
            loaded[name] = load_experiment(
                base, [*own, "seed=0"], schema, on_this_machine=on_this_machine, heavy=False
            ).experiment
        except ConfigError as error:
            problems += [f"variant {name}: {problem}" for problem in error.problems]
    return loaded, problems


def _heavy_problems(variants: Mapping[str, Trained], on_this_machine: bool) -> list[str]:
    problems: list[str] = []
    for name, experiment in variants.items():
        try:
            check_heavy_rules(experiment, on_this_machine=on_this_machine)
        except ConfigError as error:
            problems += [f"variant {name}: {problem}" for problem in error.problems]
    return problems


def _plan_variant(
    whole: Trained, variant: str, first: Trained, overrides: Sequence[str], seeds: int
) -> list[PlannedRun]:
    """The runs of one variant, from that with seed 0, because seeds change nothing else; `whole` is the base."""
    from kelip_lightning.planning.stage_plan import make_plan

    plan = make_plan(first)
    differences = [line for line in difference(whole, first) if not line.split(":")[0].endswith("seed")]
    return [
        PlannedRun(
            variant=variant,
            seed=seed,
            verb="pretrain" if isinstance(whole, PretrainExperiment) else "contrastive",
            overrides=[*overrides, f"seed={seed}"],
            experiment=(experiment := _with_seed(first, seed)),
            fingerprint=training_fingerprint(experiment),
            differences=differences,
            plan=plan,
        )
        for seed in range(seeds)
    ]


def _with_seed(experiment: Trained, seed: int) -> Trained:
    if not isinstance(experiment, PretrainExperiment):
        return replace(experiment, seed=seed)
    mae = experiment.mae and replace(experiment.mae, seed=seed)
    return replace(experiment, mae=mae, contrastive=replace(experiment.contrastive, seed=seed))


def _unknown_metrics(scale: ScaleConfig, name: str, variants: Mapping[str, Trained]) -> list[str]:
    """Metrics of evaluation sets that a variant lacks."""
    problems = []
    for variant, experiment in variants.items():
        evaluation = contrastive_of(experiment).evaluation
        for metric in scale.metrics:
            data_set = parse_metric(metric)[0].split("/")[1]
            known = {
                f"{one}_{lang}" for one in (*evaluation.retrieval, *evaluation.classification) for lang in LANGUAGES
            }
            known |= {*evaluation.captions}
            if data_set not in known:
                problems.append(
                    f"scales.{name}.metrics names {metric}, and variant {variant} is not evaluated on it; its "
                    f"sets are {', '.join(sorted(known))}"
                )
    return list(dict.fromkeys(problems))


def _equal_variants(variants: Mapping[str, Trained]) -> list[str]:
    """Variants with equal training settings."""
    owner: dict[str, str] = {}
    problems = []
    for variant, experiment in variants.items():
        if (first := owner.setdefault(training_fingerprint(experiment), variant)) != variant:
            problems.append(f"variants {first} and {variant} train the same; change one")
    return problems
