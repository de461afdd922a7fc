"""Sections of an experiment that begins from a model: filled from it, and refused where they contradict it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_modules.errors import DataError
from kelip_lightning.config.experiment import ContrastiveExperiment, PretrainExperiment
from kelip_lightning.config.schema import MANDATORY, join, shown, to_plain
from kelip_lightning.errors import ConfigError, EncoderFileError
from kelip_lightning.models.config import REGULARISATION

if TYPE_CHECKING:
    from kelip_lightning.interchange.initial_model import InitialModel

Tree = dict[str, Any]

SECTIONS = ("image_encoder", "text_encoder", "dual_encoder", "tokenizer")
"""Sections that describe the model."""
_RESAMPLED = {"image_encoder.image_size", "tokenizer.context_length"}
_OF_TRAINING = {f"image_encoder.{name}" for name in REGULARISATION}
_CHECKED_ELSEWHERE = {"dual_encoder.max_logit_scale", "dual_encoder.initial_logit_bias", "tokenizer.vocab_size"}
_FREE = _RESAMPLED | _OF_TRAINING | _CHECKED_ELSEWHERE
_RELATIVE_ERROR = 1e-4
"""Between a number in a file and the model's, which is float32."""


def stage_below(schema: type[Any]) -> str | None:
    """Key of the contrastive stage in an experiment's tree, empty for the stage itself; `None`: it has none."""
    return {ContrastiveExperiment: "", PretrainExperiment: "contrastive"}.get(schema)


def contrastive_tree(tree: Mapping[str, Any], schema: type[Any]) -> Mapping[str, Any]:
    """The part of an experiment's tree that describes contrastive training; empty if there is none."""
    key = stage_below(schema)
    stage = tree if key == "" else tree.get(key) if key else None
    return stage if isinstance(stage, Mapping) else {}


def name_of_model(stage: Mapping[str, Any]) -> str | None:
    """`init.model` of a stage's tree; `None` without one, or if it is no text."""
    name = _given(stage, "init").get("model")
    return name if isinstance(name, str) and name != MANDATORY else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """The model that a stage begins from, as far as an experiment needs to know it."""

    name: str
    sections: Mapping[str, Mapping[str, Any]]
    """Section -> key -> value of the model."""
    sha256: str | None
    model: "InitialModel | None"
    """`None`: the values are those that the run to resume has recorded."""

    def fill(self, tree: Tree, schema: type[Any]) -> Tree:
        """The tree with every key of `SECTIONS` that it leaves out, and the hash; unchanged without this model."""
        stage, at = contrastive_tree(tree, schema), stage_below(schema)
        if name_of_model(stage) != self.name:
            return tree
        own = {name: {**self.sections.get(name, {}), **_given(stage, name)} for name in SECTIONS}
        init = _given(stage, "init")
        whole = {**stage, **own, "init": {**init, "model_sha256": init.get("model_sha256") or self.sha256}}
        return {**tree, at: whole} if at else whole


def find_beginning(
    tree: Tree, schema: type[Any], problems: list[str], recorded: Callable[[], Mapping[str, Any] | None]
) -> Beginning | None:
    """The model that an experiment begins from; `None`: it names none.

    Args:
        tree: Of the experiment, before it is filled.
        schema: Class of the experiment.
        problems: Of building it unfilled. Those that filling may solve are removed.
        recorded: Gives the tree of the contrastive stage that the run to resume has stored; `None`: a new run.

    Raises:
        ConfigError: There are other problems, or the model cannot be read; the model is not read if there are others.
    """
    stage, at = contrastive_tree(tree, schema), stage_below(schema) or ""
    if (name := name_of_model(stage)) is None:
        return None
    if others := [problem for problem in problems if not _concerns_model(problem, at)]:
        raise ConfigError(others)
    problems.clear()
    stored = recorded()
    if stored is not None and name_of_model(stored) == name:
        sections = {section: _given(stored, section) for section in SECTIONS}
        sha256 = _given(stored, "init").get("model_sha256")
        return Beginning(name=name, sections=sections, sha256=sha256, model=None)
    # Here, since only experiments that begin from a model should wait for torch before their rules are checked.
    from kelip_lightning.interchange.initial_model import read_initial_model

    file = _given(stage, "tokenizer").get("file")
    try:
        model = read_initial_model(name, file if isinstance(file, str) else None)
    except (EncoderFileError, DataError) as error:
        raise ConfigError([f"{join(at, 'init.model')} = {name}: {error}"]) from error
    return Beginning(name=name, sections=model.sections(), sha256=model.sha256, model=model)


def contradictions(experiment: Any, tree: Tree, beginning: Beginning | None) -> Iterator[str]:
    """One sentence for each given value that is not the model's, and may not differ from it.

    Args:
        experiment: Built from the filled tree.
        tree: As given, before it is filled.
        beginning: From `find_beginning`.
    """
    if beginning is None or beginning.model is None:
        return
    schema = type(experiment)
    at = stage_below(schema)
    stage: ContrastiveExperiment = getattr(experiment, at) if at else experiment
    yield from _contradictions(stage, contrastive_tree(tree, schema), beginning.model, f"{at}." if at else "")


def _contradictions(
    stage: ContrastiveExperiment, tree: Mapping[str, Any], model: "InitialModel", prefix: str
) -> Iterator[str]:
    sections = model.sections()
    named = f"{prefix}init.model = {model.name}"
    for name in SECTIONS:
        section = to_plain(getattr(stage, name))
        for key in _given(tree, name):
            dotted = f"{name}.{key}"
            if dotted in _FREE or key not in sections[name] or key not in section:
                continue
            if not _equal(section[key], sections[name][key]):
                yield (
                    f"{prefix}{dotted} = {shown(section[key])} contradicts {named}, which has "
                    f"{shown(sections[name][key])}; remove the key, or override it with {prefix}{dotted}={MANDATORY}"
                )
    yield from _about_values(stage, model, prefix, named)
    if stage.init.model_sha256 != model.sha256:
        yield (
            f"{prefix}init.model_sha256 = {stage.init.model_sha256} is not that of {named}, which has {model.sha256}; "
            "restore the model, or remove model_sha256 to begin from this one"
        )


def _about_values(stage: ContrastiveExperiment, model: "InitialModel", prefix: str, named: str) -> Iterator[str]:
    size, tokens = stage.tokenizer.vocab_size, model.tokenizer.vocab_size
    if size < tokens:
        yield (
            f"{prefix}tokenizer.vocab_size = {size} is less than the {tokens} tokens of {named}; remove the key, or "
            f"set it to {tokens}"
        )
    scale, bound = model.model.scale().item(), stage.dual_encoder.max_logit_scale
    if scale > bound * (1 + _RELATIVE_ERROR):
        yield (
            f"{prefix}dual_encoder.max_logit_scale = {bound:g} is less than the logit scale {scale:.6g} of {named}; "
            "remove the key, or raise it"
        )
    bias, own = stage.dual_encoder.initial_logit_bias, model.model.config.initial_logit_bias
    if bias is not None and own is not None and not _equal(bias, own):
        yield (
            f"{prefix}dual_encoder.initial_logit_bias = {bias:g} contradicts {named}, which has a bias of its own "
            f"(initially {own:g}); remove the key"
        )


def _given(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The keys of a section that have a value."""
    section = tree.get(name)
    return {key: one for key, one in section.items() if one != MANDATORY} if isinstance(section, Mapping) else {}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float | int):
        return abs(one - other) <= _RELATIVE_ERROR * abs(other)
    return bool(one == other)


def _concerns_model(problem: str, at: str) -> bool:
    """Whether a problem of a section's values may vanish when the sections are filled from the model."""
    return problem.startswith(tuple(join(at, name) for name in SECTIONS))
