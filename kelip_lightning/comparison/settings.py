"""In which settings runs differ: between groups, and within a group, where only the seed should."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_modules.config_roles import Role
from kelip_lightning.comparison.runs import ComparedRun, Groups
from kelip_lightning.config.experiment import STAGE_SCHEMAS
from kelip_lightning.config.fingerprint import identity_of, role_of_key
from kelip_lightning.config.load import PLACE, differing_values
from kelip_lightning.config.schema import to_plain

SEED = "seed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDifference:
    """A key whose value is not the same in all runs."""

    key: str
    """`STAGE.dotted.key`."""
    role: Role
    """`identity`: it may change the trained weights."""
    values: dict[str, list[str]]
    """Group -> its distinct values, in the order of its runs; one value if the group has one."""


def differences_between(groups: Groups) -> list[SettingDifference]:
    """The keys that differ between groups; the seed only if the groups have different seeds."""
    found = _differences([run for runs in groups.values() for run in runs])
    between = []
    for key, (role, values) in found.items():
        distinct = _by_group(groups, values)
        if len({tuple(sorted(one)) for one in distinct.values()}) > 1:
            between.append(SettingDifference(key=key, role=role, values=distinct))
    return sorted(between, key=lambda one: list(Role).index(one.role))


def differences_within(groups: Groups) -> dict[str, list[SettingDifference]]:
    """Group -> the keys that differ among its runs."""
    within = {}
    for name, runs in groups.items():
        found = _differences(runs)
        within[name] = [
            SettingDifference(key=key, role=role, values={name: list(dict.fromkeys(values))})
            for key, (role, values) in found.items()
        ]
    return within


def is_seed(key: str) -> bool:
    """Whether the key is the seed of a stage."""
    return key.rpartition(".")[2] == SEED and key.count(".") == 1


def _by_group(groups: Groups, values: Sequence[str]) -> dict[str, list[str]]:
    left = iter(values)
    return {name: list(dict.fromkeys(next(left) for _ in runs)) for name, runs in groups.items()}


def _differences(runs: Sequence[ComparedRun]) -> dict[str, tuple[Role, list[str]]]:
    """Key -> its role and its value in every run, for the keys that differ."""
    trees = [_tree({name: to_plain(stage) for name, stage in run.stages.items()}) for run in runs]
    identities = [_tree({name: identity_of(stage) for name, stage in run.stages.items()}) for run in runs]
    decisive = [key for key, _ in differing_values(identities)]
    return {
        key: (_role_of(key, decisive), values)
        for key, values in differing_values(trees)
        if key.partition(".")[2] not in PLACE
    }


def _tree(stages: Mapping[str, object]) -> dict[str, object]:
    """A stage that the run does not have is null, as `mae: null` in an experiment."""
    return {name: stages.get(name) for name in STAGE_SCHEMAS}


def _role_of(key: str, decisive: Sequence[str]) -> Role:
    """Identity only if the part of the value that enters the fingerprint differs."""
    if any(key == one or key.startswith(f"{one}.") or one.startswith(f"{key}.") for one in decisive):
        return Role.identity
    stage, _, rest = key.partition(".")
    role = role_of_key(STAGE_SCHEMAS[stage], rest.split(".")) if rest else Role.identity
    return Role.reporting if role is Role.identity else role
