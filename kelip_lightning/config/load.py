"""From a YAML file and overrides to a checked experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from kelip_lightning.config.read import Tree, merge, nested, parse_override, read_experiment_file, to_yaml
from kelip_lightning.config.renamed import translate
from kelip_lightning.config.roles import identity_of
from kelip_lightning.config.schema import has_key, join, to_plain, without_none
from kelip_lightning.config.typed import MANDATORY, build_section, run_rule, shown
from kelip_lightning.config.validate import rules
from kelip_lightning.errors import ConfigError

Schema = TypeVar("Schema")

_ABSENT = "(absent)"

PLACE = frozenset({"name", "output_dir"})
"""Where a run is: the keys that make a section a whole experiment, a stage; a run of several stages has one of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedExperiment(Generic[Schema]):
    """An experiment that may run, and where it comes from."""

    experiment: Schema
    resolved: str
    """YAML with every value, defaults included; loads to the same experiment."""
    overrides: list[str]
    """The overrides as they were given."""
    base_diff: list[str]
    """`key: old -> new` against what the file extends, or against the file where it extends nothing."""


def load_experiment(
    path: Path | str,
    overrides: Sequence[str],
    schema: type[Schema],
    *,
    on_this_machine: bool = True,
    stored: bool = False,
) -> LoadedExperiment[Schema]:
    """Read, merge, type and check an experiment.

    Args:
        path: YAML file; `extends: other.yaml` in it, at the top or in a section, names one to start from.
        overrides: `dotted.key=value`, later ones win. For an experiment of stages, a key that it does not
            have itself goes to every stage that has it.
        schema: Class of the experiment.
        on_this_machine: Whether files, folders and devices that the experiment names must be there.
        stored: Whether the file is the configuration that a run stored, maybe of an earlier revision: keys that have
            been renamed since are then translated instead of refused.

    Raises:
        ConfigError: All problems together, one sentence each.
    """
    tree, inherited = read_experiment_file(Path(path))
    tree = translate(schema, tree) if stored else tree
    problems: list[str] = []
    changed = _share_place(schema, _apply(overrides, tree, schema, problems))
    experiment = build_section(schema, changed, "", problems)
    _apply_rules(experiment, on_this_machine, problems)
    base = build_section(schema, _share_place(schema, inherited or tree), "", [])
    return LoadedExperiment(
        experiment=experiment,
        resolved=to_yaml(to_plain(experiment)),
        overrides=list(overrides),
        base_diff=difference(base, experiment),
    )


def check_on_this_machine(experiment: Any) -> None:
    """Files, folders and devices that a loaded experiment names must be there.

    Raises:
        ConfigError: All problems together, one sentence each.
    """
    _apply_rules(experiment, True, [])


def _apply_rules(experiment: Any, on_this_machine: bool, problems: list[str]) -> None:
    for rule in rules(experiment, on_this_machine):
        run_rule(rule, problems)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def find_schema(path: Path | str, schemas: Sequence[type[Any]]) -> type[Any]:
    """The schema that shares most top-level keys with a file; among equals the smallest."""
    tree, _ = read_experiment_file(Path(path))

    def likeness(schema: type[Any]) -> tuple[int, int]:
        names = _names(schema)
        return len(names & set(tree)), -len(names)

    return max(schemas, key=likeness)


def difference(base: Any, experiment: Any) -> list[str]:
    """`key: old -> new` for every value that differs; the stages' shared name comes once."""
    return [f"{key}: {old} -> {new}" for key, old, new in _different(base, experiment)]


def difference_by_effect(base: Any, experiment: Any) -> tuple[list[str], list[str]]:
    """The lines of `difference` that make another run, and those that do not: see `data_modules.config_roles`."""
    decisive = [key for key, _, _ in _difference(identity_of(base), identity_of(experiment), "")]
    found: tuple[list[str], list[str]] = ([], [])
    for key, old, new in _different(base, experiment):
        is_decisive = any(key == one or key.startswith(f"{one}.") for one in decisive)
        found[not is_decisive].append(f"{key}: {old} -> {new}")
    return found


def _different(base: Any, experiment: Any) -> list[tuple[str, str, str]]:
    shared = {f"{stage}.{key}" for stage in stage_schemas(type(experiment)) for key in PLACE}
    return [one for one in _difference(to_plain(base), to_plain(experiment), "") if one[0] not in shared]


def _difference(old: Any, new: Any, prefix: str) -> list[tuple[str, str, str]]:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [(prefix, _shown(old), _shown(new))]
    lines: list[tuple[str, str, str]] = []
    for key in dict.fromkeys([*new, *old]):
        lines += _difference(old.get(key, _ABSENT), new.get(key, _ABSENT), join(prefix, key))
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "(section)" if value else "{}"
    return shown(value) if value is None or isinstance(value, bool) else str(value)


def stage_schemas(schema: type[Any]) -> dict[str, type[Any]]:
    """The fields of an experiment that are experiments themselves."""
    hints = {name: without_none(hint)[0] for name, hint in get_type_hints(schema).items()}
    return {
        name: hint
        for name, hint in hints.items()
        if isinstance(hint, type) and is_dataclass(hint) and PLACE.issubset(_names(hint))
    }


def _names(schema: type[Any]) -> set[str]:
    return {field.name for field in fields(schema)}


def _apply(overrides: Sequence[str], tree: Tree, schema: type[Any], problems: list[str]) -> Tree:
    stages = stage_schemas(schema)
    own = _names(schema)
    targets: list[tuple[str, list[str]]] = []
    for text in overrides:
        try:
            keys, value = parse_override(text)
        except ConfigError as error:
            problems.extend(error.problems)
            continue
        if keys[0] in stages and keys[1:] and keys[1] in PLACE:
            problems.append(f"{text!r}: both stages share one {keys[1]}; give {keys[1]}=VALUE instead")
        for_stages = [] if keys[0] in own else _stages_with(keys, stages)
        targets += [(text, for_stages)] if for_stages else []
        for stage in for_stages:
            if isinstance(tree.get(stage), Mapping):
                tree = merge(tree, nested([stage, *keys], value))
        if not for_stages:
            tree = merge(tree, nested(keys, value))
    for text, names in targets:
        if not any(isinstance(tree.get(name), Mapping) for name in names):
            where = " and ".join(names)
            problems.append(f"{text!r} belongs to {where}, which is switched off; remove one of the two")
    return tree


def _stages_with(keys: list[str], stages: Mapping[str, type[Any]]) -> list[str]:
    """The stages whose schema has the dotted key; if none has, those with its first part, to be reported."""
    whole = [name for name, schema in stages.items() if has_key(schema, keys)]
    return whole or [name for name, schema in stages.items() if has_key(schema, keys[:1])]


def _share_place(schema: type[Any], tree: Tree) -> Tree:
    """Name and output folder of the whole experiment in every stage, whatever the stage's own file says."""
    stages = [name for name in stage_schemas(schema) if isinstance(tree.get(name), Mapping)]
    defaults = {field.name: field.default for field in fields(schema) if isinstance(field.default, str)}
    shared = {key: tree.get(key, defaults.get(key, MANDATORY)) for key in sorted(PLACE)}
    given = {key: value for key, value in shared.items() if value != MANDATORY}
    return merge(tree, dict.fromkeys(stages, given))
