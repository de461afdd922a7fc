"""Evaluation files: their included files, and the sets whose data is on this machine."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from data_modules.benchmarks.config import EvaluationConfig
from data_modules.benchmarks.layouts.availability import missing_files
from kelip_lightning.config.evaluation import EvaluationExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.errors import ConfigError

SET_KINDS = ("retrieval", "captions", "classification", "choices")
"""Sections of evaluation sets."""


def with_included(experiment: EvaluationExperiment, file: Path) -> EvaluationExperiment:
    """The experiment with the sets, published results and tables of the files that it includes, and they include.

    Files without a `data_folder` have the including file's.

    Raises:
        ConfigError: A file is missing or wrong, or two files have a set of the same name.
    """
    whole, sources = experiment, dict.fromkeys(set_names(experiment.evaluation), file)
    for name in experiment.include:
        path = file.parent / name
        if not path.is_file():
            raise ConfigError([f"{file}: include names {name}, which does not exist; correct the path"])
        folder = whole.evaluation.data_folder
        if _load(path, []).evaluation.data_folder not in (None, folder):
            raise ConfigError([f"{path}: evaluation.data_folder is set; remove it, as {file} includes the file"])
        # Without it, the paths of the included file would be relative to that file.
        own = [] if folder is None else [f"evaluation.data_folder={json.dumps(folder)}"]
        part = with_included(_load(path, own), path)
        for one in set_names(part.evaluation):
            if one in sources:
                raise ConfigError([f"{path} and {sources[one]} both have a set named {one}; rename one of them"])
            sources[one] = path
        sets: Any = {kind: getattr(whole.evaluation, kind) | getattr(part.evaluation, kind) for kind in SET_KINDS}
        whole = replace(
            whole,
            evaluation=replace(whole.evaluation, **sets),
            published=[*whole.published, *part.published],
            tables=part.tables | whole.tables,
        )
    return whole


def _load(path: Path, overrides: list[str]) -> EvaluationExperiment:
    return load_experiment(path, overrides, EvaluationExperiment, on_this_machine=False).experiment


def set_names(evaluation: EvaluationConfig) -> list[str]:
    """The names of all sets."""
    return [name for kind in SET_KINDS for name in getattr(evaluation, kind)]


def available_part(evaluation: EvaluationConfig) -> tuple[EvaluationConfig, dict[str, str]]:
    """The sets whose files exist, and for every other set its first pattern without a file."""
    kept: dict[str, dict[str, Any]] = {kind: {} for kind in SET_KINDS}
    missing: dict[str, str] = {}
    for kind in SET_KINDS:
        sets: Mapping[str, Any] = getattr(evaluation, kind)
        for name, one in sets.items():
            absent = missing_files(one.table, evaluation.data_folder, getattr(one, "classes_file", None))
            if absent:
                missing[name] = absent[0]
            else:
                kept[kind][name] = one
    values: Any = {one.name: getattr(evaluation, one.name) for one in fields(evaluation)} | kept
    return EvaluationConfig(**values), missing
