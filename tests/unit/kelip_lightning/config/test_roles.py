"""Every setting that is changed alone: whether it makes another run, and whether a resumed run may have it so."""

import copy
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from data_modules.config_roles import Role
from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.fingerprint import training_fingerprint
from kelip_lightning.config.load import difference_by_effect, load_experiment
from kelip_lightning.config.roles import role_of_key, settings_without
from kelip_lightning.config.schema import without_none
from tests.paths import ROOT

STAGE = r"(mae|contrastive)\."
PERFORMANCE = re.compile(
    STAGE + r"(trainer\.(devices|num_nodes|timeout_minutes|accumulate|gradient_checkpointing|compile|num_threads"
    r"|deterministic)|data\.num_workers|data\.corrupt_samples\.max_share|data\.sources\.\w+\.(read_timeout_seconds|index_folder)"
    r"|loss\.max_logits_per_pair|non_finite\.(policy|max_skipped))"
)
REPORTING = re.compile(
    rf"({STAGE})?(name|output_dir)|{STAGE}(trainer\.log_every_n_steps|checkpoint\.\w+|evaluation\..+)"
)
"""What this test expects; every other key must be identity."""


@pytest.fixture(scope="module")
def experiment() -> PretrainExperiment:
    """Both stages, with sections that are idle in the file switched on."""
    switched_on = (
        "contrastive.self_supervision.method=simclr",
        "contrastive.transform.views.num_views=2",
        "data.sources.evaluation.files=[package:emoji/twemoji.parquet]",
        "data.sources.evaluation.captions={ko: name_ko}",
    )
    file = ROOT / "experiments" / "emoji" / "pretrain.yaml"
    return load_experiment(file, switched_on, PretrainExperiment, on_this_machine=False).experiment


def _leaves(section: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Keys and type of every field below a section; sections in mappings and those that are there included."""
    for name, hint in get_type_hints(type(section)).items():
        value = getattr(section, name)
        if is_dataclass(value):
            yield from _leaves(value, (*keys, name))
        elif isinstance(value, dict) and value and all(map(is_dataclass, value.values())):
            for key, one in value.items():
                yield from _leaves(one, (*keys, name, key))
        else:
            yield (*keys, name), hint


def _other(value: Any, hint: Any) -> Any:
    """Another value of the same type."""
    kind, _ = without_none(hint)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(one for one in kind if one is not value)
    if get_origin(kind) is list:
        return [*(value or []), _other(None, get_args(kind)[0])]
    if get_origin(kind) is dict:
        of = get_args(kind)[1]
        return value | {"added": object.__new__(of) if is_dataclass(of) else _other(None, of)}
    if kind is bool:
        return not value
    if get_origin(kind) is None and kind is str:
        return f"{value or ''}x"
    return (value or kind()) + 1


def _changed(experiment: PretrainExperiment, keys: tuple[str, ...], hint: Any) -> PretrainExperiment:
    changed = copy.deepcopy(experiment)
    place: Any = changed
    for key in keys[:-1]:
        place = place[key] if isinstance(place, dict) else getattr(place, key)
    setattr(place, keys[-1], _other(getattr(place, keys[-1]), hint))
    return changed


def test_every_setting__changes_fingerprint_and_resumption_as_its_role_says(experiment: PretrainExperiment) -> None:
    before, seen = training_fingerprint(experiment), {training_fingerprint(experiment)}
    counts = dict.fromkeys(Role, 0)
    for keys, hint in _leaves(experiment):
        dotted = ".".join(keys)
        if dotted == "contrastive.trainer.strategy" or dotted == "mae.trainer.strategy":
            continue  # in part; below
        role = Role.identity
        if PERFORMANCE.fullmatch(dotted):
            role = Role.performance
        elif REPORTING.fullmatch(dotted):
            role = Role.reporting
        counts[role] += 1
        changed = _changed(experiment, keys, hint)
        assert role_of_key(PretrainExperiment, keys) is role, dotted
        after = training_fingerprint(changed)
        refused, allowed = difference_by_effect(experiment, changed)
        if role is Role.identity:
            assert after not in seen, f"{dotted} does not tell two runs apart"
            assert [bool(refused), bool(allowed)] == [True, False], dotted
            seen.add(after)
        else:
            assert after == before, f"{dotted} makes another run of the same"
            assert not refused, dotted
    assert counts[Role.identity] > 150
    assert counts[Role.performance] > 20
    assert counts[Role.reporting] > 20


def test_strategy__counts_where_deepspeed_s_casts_come_in(experiment: PretrainExperiment) -> None:
    def with_strategy(name: str) -> PretrainExperiment:
        changed = copy.deepcopy(experiment)
        changed.contrastive.trainer.strategy = name
        return changed

    prints = {name: training_fingerprint(with_strategy(name)) for name in ("auto", "ddp", "deepspeed_stage_1")}
    assert prints["auto"] == prints["ddp"] != prints["deepspeed_stage_1"]
    assert training_fingerprint(with_strategy("deepspeed_stage_3")) == prints["deepspeed_stage_1"]
    line = "contrastive.trainer.strategy: auto -> "
    assert difference_by_effect(with_strategy("auto"), with_strategy("ddp")) == ([], [f"{line}ddp"])
    zero = "deepspeed_stage_2"
    assert difference_by_effect(with_strategy("auto"), with_strategy(zero)) == ([f"{line}{zero}"], [])


def test_difference_by_effect__names_every_value_below_a_section_that_counts() -> None:
    def load(*overrides: str) -> PretrainExperiment:
        file = ROOT / "experiments" / "emoji" / "pretrain.yaml"
        return load_experiment(file, overrides, PretrainExperiment, on_this_machine=False).experiment

    on = ("contrastive.self_supervision.method=simclr", "contrastive.transform.views.num_views=2")
    refused, allowed = difference_by_effect(load(), load(*on, "contrastive.loss.max_logits_per_pair=8"))
    assert refused == [
        "contrastive.transform.views.num_views: 0 -> 2",
        "contrastive.self_supervision.method: none -> simclr",
    ]
    assert allowed == ["contrastive.loss.max_logits_per_pair: null -> 8"]


def test_settings_without__leaves_out_whole_sections_and_single_keys(experiment: PretrainExperiment) -> None:
    told = settings_without(Role.reporting, experiment.contrastive)
    assert not {"name", "output_dir", "evaluation"} & set(told)
    assert "evaluation" in told["data"]["sources"], "a source may have any name"
    assert "log_every_n_steps" not in told["trainer"]
    assert told["trainer"]["num_threads"] == experiment.contrastive.trainer.num_threads
    assert told["optimizer"]["name"] == experiment.contrastive.optimizer.name.name
    assert fields(experiment.contrastive)[0].name == "name"
