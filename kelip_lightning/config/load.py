"""From a YAML file and overrides to a checked experiment: reading, `extends`, overrides, types, rules, differences.

Rules that import torch run last, so that most problems are told without waiting for it.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kelip_lightning.config.devices import with_devices
from kelip_lightning.config.experiment import USES
from kelip_lightning.config.fingerprint import identity_of
from kelip_lightning.config.initial_model import contradictions, contrastive_tree, find_beginning
from kelip_lightning.config.paths import located, plain, with_absolute_paths
from kelip_lightning.config.renamed import current_name, current_value
from kelip_lightning.config.schema import (
    MANDATORY,
    build_section,
    has_key,
    join,
    run_rule,
    section_of_mapping,
    shown,
    to_plain,
    without_none,
)
from kelip_lightning.config.validate import heavy_rules, rules
from kelip_lightning.distributed.accelerators import AUTO
from kelip_lightning.errors import ConfigError
from kelip_lightning.runs.folder import RunFolder, run_of_checkpoint

Schema = TypeVar("Schema")

Tree = dict[str, Any]
"""Nested mappings of plain values."""

EXTENDS = "extends"
_OTHER_KIND_KEYS = 2
"""Top-level keys that a file must have more of another kind of experiment to be taken for one."""

_ABSENT = "(absent)"

PLACE = frozenset({"name", "output_dir"})
"""Keys that locate a run. A section that has both is a stage; the stages of one run share their values."""


def read_experiment_file(path: Path) -> tuple[Tree, Tree]:
    """The tree of a file with everything that it extends merged below it, and the extended part alone.

    `extends: other.yaml` may be given at the top or in any section; the path is relative to the file.

    Raises:
        ConfigError: A file is missing, is not a valid YAML mapping, or extends itself.
    """
    whole, inherited = _read(path, ())
    return plain(whole), plain(inherited)


def _read(path: Path, chain: tuple[Path, ...]) -> tuple[Tree, Tree]:
    if path.resolve() in chain:
        names = " -> ".join(file.name for file in (*chain, path))
        raise ConfigError([f"{chain[-1]}: extends forms a circle ({names}); remove one of them"])
    return _extend(_load(path), path, (*chain, path.resolve()))


def _extend(node: Tree, path: Path, chain: tuple[Path, ...]) -> tuple[Tree, Tree]:
    whole: Tree = {}
    inherited: Tree = {}
    for key, value in node.items():
        if key == EXTENDS:
            continue
        if isinstance(value, dict):
            whole[key], below = _extend(value, path, chain)
            inherited |= {key: below} if below else {}
        else:
            whole[key] = value
    if EXTENDS not in node:
        return whole, inherited
    base, _ = _read(_extended_file(node[EXTENDS], path), chain)
    return merge(base, whole), merge(base, inherited)


def _extended_file(name: Any, path: Path) -> Path:
    if not isinstance(name, str):
        raise ConfigError([f"{path}: extends = {name!r} must be the path of one YAML file, relative to this"])
    file = path.parent / name
    if not file.is_file():
        raise ConfigError([f"{path}: extends = {name!r} names a file that does not exist{_similar(file)}"])
    return file


def _load(path: Path) -> Tree:
    if not path.is_file():
        what = "is a folder, not a YAML file" if path.is_dir() else "does not exist"
        raise ConfigError([f"{path} {what}{_similar(path)}"])
    try:
        tree = OmegaConf.to_container(OmegaConf.create(OmegaConf.load(path)), resolve=True)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        what = error.problem or error.context or ""
        raise ConfigError([f"{path}{line}: {what}; correct the YAML there"]) from error
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: {_first_line(error)}"]) from error
    except OSError as error:
        raise ConfigError([f"{path} cannot be read ({error.strerror or _first_line(error)})"]) from error
    if not isinstance(tree, dict):
        raise ConfigError([f"{path} must hold a mapping (key: value), not a {type(tree).__name__}"])
    return {str(key): located(value, path.parent) for key, value in tree.items()}


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = [file.name for file in sorted(path.parent.glob("*.y*ml"))]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def parse_override(text: str) -> tuple[list[str], Any]:
    """The keys and the value of `dotted.key=value`; the value is read as YAML.

    Raises:
        ConfigError: The text is not of this form.
    """
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys) or any(character in dotted for character in "[] "):
        raise ConfigError([f"{text!r} is not an override: use dotted.key=value, for example seed=1"])
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]), resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError([f"{text!r}: the value is not valid YAML ({_first_line(error)})"]) from error
    assert isinstance(parsed, dict)
    return keys, parsed["value"]


def nested(keys: Sequence[str], value: Any) -> Tree:
    """The tree with this one value, for example {a: {b: value}}."""
    for key in reversed(keys):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> Tree:
    """Both trees in one, new mappings throughout; where both have a value, `top` wins, lists as a whole."""
    merged = {key: merge(value, {}) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def to_yaml(tree: Mapping[str, Any]) -> str:
    """The tree as YAML that reads back to the same values."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(tree)))


def translate(kind: type, values: Any) -> Any:
    """A plain tree with the old keys and paths of a section class and of all sections below it as they are now."""
    if not isinstance(values, Mapping):
        return values
    hints, translated = get_type_hints(kind), {}
    for key, value in values.items():
        name = current_name(kind, str(key)) or key
        inner, _ = without_none(hints.get(str(name)))
        below = section_of_mapping(inner)
        if isinstance(inner, type) and is_dataclass(inner):
            value = translate(inner, value)
        elif below is not None and isinstance(value, Mapping):
            value = {entry: translate(below, one) for entry, one in value.items()}
        translated[name] = current_value(kind, str(name), value)
    return translated


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedExperiment(Generic[Schema]):
    """A checked experiment with its origin."""

    experiment: Schema
    """As the file and the overrides say: `with_devices` replaces `trainer.devices: auto`."""
    overrides: list[str]
    base_diff: list[str]
    """`key: old -> new` against the extended file, or against the file itself if it extends nothing."""

    @property
    def resolved(self) -> str:
        """YAML with every value, defaults included; loads to the same experiment."""
        return to_yaml(to_plain(self.experiment))


def load_experiment(
    path: Path | str,
    overrides: Sequence[str],
    schema: type[Schema],
    *,
    on_this_machine: bool = True,
    stored: bool = False,
    heavy: bool = True,
    resume: str | None = None,
) -> LoadedExperiment[Schema]:
    """Read, merge, type and check an experiment.

    What an experiment with `init.model` leaves out is read from that model (`config.initial_model`).

    Args:
        path: YAML file.
        overrides: `dotted.key=value`, later ones win. For an experiment of stages, a key that it does not
            have itself goes to every stage that has it.
        schema: Class of the experiment.
        on_this_machine: Whether the files, folders and devices that the experiment names must exist, and the rules must
            hold for the number of devices that auto stands for here.
        stored: Whether the file is a run's stored configuration: renamed keys are translated instead of refused, and
            relative paths, which earlier revisions have written, are relative to the working directory.
        heavy: Whether the rules that import torch or timm run too; if not, `check_heavy_rules` must follow.
        resume: The run to resume as `--resume` names it, which has recorded what a model that it began from states.

    Raises:
        ConfigError: All problems together, one sentence each; those of the heavy rules only if there are no others.
    """
    tree, inherited = _read(Path(path), ())
    if not stored:
        _refuse_other_kind(path, tree, schema)
    tree = translate(schema, plain(tree)) if stored else tree
    problems: list[str] = []
    changed = with_absolute_paths(schema, _share_place(schema, _apply(overrides, tree, schema, problems)), problems)
    experiment = build_section(schema, changed, "", problems)
    beginning = None
    if not stored:  # a stored configuration leaves nothing out
        beginning = find_beginning(changed, schema, problems, lambda: _recorded_stage(resume, experiment, schema))
    if beginning is not None:
        experiment = build_section(schema, beginning.fill(changed, schema), "", problems)
        run_rule(lambda: contradictions(experiment, changed, beginning), problems)
    checked = with_devices(experiment) if on_this_machine and not problems else experiment
    _run_rules(rules(checked, on_this_machine), problems)
    if heavy:
        check_heavy_rules(checked, on_this_machine=on_this_machine)
    base_tree = with_absolute_paths(schema, _share_place(schema, inherited or tree), [])
    base = build_section(schema, beginning.fill(base_tree, schema) if beginning else base_tree, "", [])
    return LoadedExperiment(
        experiment=experiment,
        overrides=list(overrides),
        base_diff=difference(base, experiment),
    )


def _recorded_stage(resume: str | None, experiment: Any, schema: type[Any]) -> Mapping[str, Any] | None:
    """The tree of the contrastive stage in the configuration of the run to resume; `None`: there is no run."""
    if resume is None:
        return None
    path = Path(experiment.output_dir) / experiment.name if resume == AUTO else Path(resume)
    found = run_of_checkpoint(path)
    run = found[0] if found else RunFolder(path)
    if not run.config.is_file():
        return None
    return contrastive_tree(translate(schema, read_experiment_file(run.config)[0]), schema)


def check_on_this_machine(experiment: Any) -> None:
    """Check that the files, folders and devices that a loaded experiment names exist, as `load_experiment` does.

    Args:
        experiment: After `with_devices`.

    Raises:
        ConfigError: All problems together, one sentence each.
    """
    _run_rules(rules(experiment, on_this_machine=True), [])
    check_heavy_rules(experiment, on_this_machine=True)


def check_heavy_rules(experiment: Any, *, on_this_machine: bool) -> None:
    """Check an experiment that meets all other rules with those that import torch or timm.

    Args:
        experiment: A loaded experiment.
        on_this_machine: Whether the devices that it names must exist.

    Raises:
        ConfigError: All problems together, one sentence each.
    """
    _run_rules(heavy_rules(experiment, on_this_machine), [])


def _run_rules(found: Sequence[Callable[[], Iterable[str]]], problems: list[str]) -> None:
    """Run every rule; raise ConfigError if any, or an earlier check, has found a problem."""
    for rule in found:
        run_rule(rule, problems)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def find_schema(path: Path | str, schemas: Sequence[type[Any]]) -> type[Any]:
    """The schema that shares most top-level keys with a file; among equals the smallest."""
    tree, _ = read_experiment_file(Path(path))
    return _nearest_schema(tree, schemas)


def _nearest_schema(tree: Mapping[str, Any], schemas: Sequence[type[Any]]) -> type[Any]:
    return max(schemas, key=lambda schema: (len(_names(schema) & set(tree)), -len(_names(schema))))


def _refuse_other_kind(path: Path | str, tree: Mapping[str, Any], schema: type[Any]) -> None:
    """One sentence for a file of another verb, of which nearly every key would be unknown.

    Raises:
        ConfigError: The file is an experiment of another kind.
    """
    if schema not in USES:
        return
    nearest = _nearest_schema(tree, tuple(USES))
    if len(_names(nearest) & set(tree)) - len(_names(schema) & set(tree)) >= _OTHER_KIND_KEYS:
        raise ConfigError([f"{path} {USES[nearest]}; the verb given needs a file that {USES[schema]}"])


def difference(base: Any, experiment: Any) -> list[str]:
    """`key: old -> new` for every value that differs; what the stages share is listed once."""
    return [f"{key}: {old} -> {new}" for key, old, new in _different(base, experiment)]


def difference_by_effect(base: Any, experiment: Any) -> tuple[list[str], list[str]]:
    """The lines of `difference` for settings of role identity, and those for all others."""
    decisive = [key for key, _ in differing_values([identity_of(base), identity_of(experiment)])]
    found: tuple[list[str], list[str]] = ([], [])
    for key, old, new in _different(base, experiment):
        is_decisive = any(key == one or key.startswith(f"{one}.") for one in decisive)
        found[not is_decisive].append(f"{key}: {old} -> {new}")
    return found


def _different(base: Any, experiment: Any) -> list[tuple[str, str, str]]:
    shared = {f"{stage}.{key}" for stage in stage_schemas(type(experiment)) for key in PLACE}
    found = differing_values([to_plain(base), to_plain(experiment)])
    return [(key, old, new) for key, (old, new) in found if key not in shared]


def differing_values(trees: Sequence[Any], prefix: str = "") -> list[tuple[str, list[str]]]:
    """Dotted key and its value in every tree, where the plain trees differ; a section that one lacks is one key."""
    if not all(isinstance(one, dict) for one in trees):
        return [] if all(one == trees[0] for one in trees) else [(prefix, [_shown(one) for one in trees])]
    found: list[tuple[str, list[str]]] = []
    for key in dict.fromkeys(key for one in reversed(trees) for key in one):
        found += differing_values([one.get(key, _ABSENT) for one in trees], join(prefix, key))
    return found


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
    """The stages whose schema has the dotted key; if none has it, those with its first part, for the message."""
    whole = [name for name, schema in stages.items() if has_key(schema, keys)]
    return whole or [name for name, schema in stages.items() if has_key(schema, keys[:1])]


def _share_place(schema: type[Any], tree: Tree) -> Tree:
    """Name and output folder of the experiment in every stage, in place of the stage's own."""
    stages = [name for name in stage_schemas(schema) if isinstance(tree.get(name), Mapping)]
    defaults = {field.name: field.default for field in fields(schema) if isinstance(field.default, str)}
    shared = {key: tree.get(key, defaults.get(key, MANDATORY)) for key in sorted(PLACE)}
    given = {key: value for key, value in shared.items() if value != MANDATORY}
    return merge(tree, dict.fromkeys(stages, given))
