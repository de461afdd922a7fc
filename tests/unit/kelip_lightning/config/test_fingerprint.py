"""Which settings make another run, and which of them a resumed run may change."""

import copy
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from data_modules.config_roles import Role
from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.fingerprint import (
    changed_settings,
    evaluation_fingerprint,
    role_of_key,
    settings_without,
    training_fingerprint,
)
from kelip_lightning.config.load import difference_by_effect, load_experiment
from kelip_lightning.config.schema import without_none
from tests.paths import ROOT

FILE = ROOT / "experiments" / "emoji" / "pretrain.yaml"
STAGE = r"(mae|contrastive)\."
PERFORMANCE = re.compile(
    STAGE + r"(trainer\.(devices|num_nodes|timeout_minutes|accumulate|gradient_checkpointing|compile|num_threads"
    r"|deterministic)|data\.(num_workers|prefetch_megabytes|allow_repeats|allow_partial_epoch)|data\.corrupt_samples\.max_share|data\.sources\.\w+\.(read_timeout_seconds|reads_in_flight|cache_folder|index_folder|check_languages)"
    r"|loss\.max_logits_per_pair|non_finite\.(policy|max_skipped))"
)
REPORTING = re.compile(
    rf"({STAGE})?(name|output_dir)|{STAGE}(trainer\.(log_every_n_steps|progress_every_minutes|loggers)|checkpoint\.\w+|(evaluation|probe|projector)\..+)"
)
"""All other keys must be identity."""


def _experiment(*overrides: str) -> PretrainExperiment:
    return load_experiment(FILE, overrides, PretrainExperiment, on_this_machine=False).experiment


@pytest.fixture(scope="module")
def experiment() -> PretrainExperiment:
    """Both stages, with optional sections enabled."""
    switched_on = (
        "contrastive.self_supervision.method=simclr",
        "contrastive.transform.views.num_views=2",
        "data.sources.evaluation.files=[package:emoji/twemoji.parquet]",
        "data.sources.evaluation.captions={ko: name_ko}",
    )
    return _experiment(*switched_on)


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
    if get_origin(kind) is UnionType:
        return _other(value, type(value))
    if isinstance(kind, type) and is_dataclass(kind):
        return kind() if value is None else None
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
            continue  # in part: see below
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
            assert after not in seen, f"{dotted} does not change the fingerprint"
            assert [bool(refused), bool(allowed)] == [True, False], dotted
            seen.add(after)
        else:
            assert after == before, f"{dotted} changes the fingerprint"
            assert not refused, dotted
    assert counts[Role.identity] > 150
    assert counts[Role.performance] > 20
    assert counts[Role.reporting] > 20


def test_strategy__counts_as_deepspeed_or_not(experiment: PretrainExperiment) -> None:
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
    on = ("contrastive.self_supervision.method=simclr", "contrastive.transform.views.num_views=2")
    refused, allowed = difference_by_effect(_experiment(), _experiment(*on, "contrastive.loss.max_logits_per_pair=8"))
    assert refused == [
        "contrastive.transform.views.num_views: 0 -> 2",
        "contrastive.self_supervision.method: none -> simclr",
    ]
    assert allowed == ["contrastive.loss.max_logits_per_pair: null -> 8"]


def test_settings_without__leaves_out_whole_sections_and_single_keys(experiment: PretrainExperiment) -> None:
    settings = settings_without(Role.reporting, experiment.contrastive)
    assert not {"name", "output_dir", "evaluation"} & set(settings)
    assert "evaluation" in settings["data"]["sources"], "a source may have any name"
    assert "log_every_n_steps" not in settings["trainer"]
    assert settings["trainer"]["num_threads"] == experiment.contrastive.trainer.num_threads
    assert settings["optimizer"]["name"] == experiment.contrastive.optimizer.name.name


def test_training_fingerprint__a_stage_and_an_entry_of_a_section_count() -> None:
    prints = {training_fingerprint(_experiment(*one)) for one in ([], ["mae=null"], ["data.sources.skin_tones=null"])}
    assert len(prints) == 3
    assert {len(one) for one in prints} == {12}


@pytest.mark.parametrize("name", ["evaluation", "checkpoint", "views", "self_supervision"])
def test_training_fingerprint__a_source_counts_whatever_its_name(name: str) -> None:
    source = f"contrastive.data.sources.{name}={{files: [a.parquet], captions: {{ko: ko}}}}"
    others = [_experiment(), _experiment(source), _experiment(source, f"contrastive.data.sources.{name}.weight=2")]
    assert len({training_fingerprint(one) for one in others}) == 3


def test_training_fingerprint__settings_of_a_loss_count_where_it_is_on() -> None:
    wide, weak = "contrastive.self_supervision.projection_width=8", "contrastive.transform.views.flip=0"
    assert training_fingerprint(_experiment(wide, weak)) == training_fingerprint(_experiment())
    byol = ("contrastive.self_supervision.method=byol", "contrastive.transform.views.num_views=2")
    others = [_experiment(), *(_experiment(*byol, *more) for more in ([], [wide], [weak]))]
    assert len({training_fingerprint(one) for one in others}) == 4


def test_evaluation_fingerprint__the_sets_count_and_their_times_do_not() -> None:
    def of(*overrides: str) -> str:
        return evaluation_fingerprint(_experiment(*overrides).contrastive.evaluation)

    assert of("contrastive.evaluation.every_n_steps=3") == of()
    assert of("contrastive.evaluation.retrieval.flags=null") != of()


def test_changed_settings__those_that_differ_from_their_default_and_those_wanted_always() -> None:
    contrastive = _experiment("trainer.log_every_n_steps=3", "optimizer.eps=0.5").contrastive
    found = changed_settings(contrastive, ["optimizer.beta1", "schedule.max_steps"])
    assert (found["optimizer.eps"], found["optimizer.beta1"]) == (0.5, 0.9)
    assert found["schedule.max_steps"] == contrastive.schedule.max_steps
    assert "optimizer.weight_decay" in found, "the file sets it"
    assert not {"optimizer.beta2", "trainer.log_every_n_steps", "trainer.devices", "name"} & found.keys()
    assert not [key for key in found if key.endswith(".files")]
