"""Rules that need more than one section, or the machine: each yields one sentence per broken place.

A rule names dotted key, value, rule and remedy. What is missing or wrong by itself is reported already
and unset; rules do not look out for that, `run_rule` does.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import partial

from data_modules.benchmarks.evaluation_sets import EvaluationConfig
from data_modules.records import LANGUAGES
from kelip_lightning.config import machine, self_supervision
from kelip_lightning.config.experiment import (
    ContrastiveExperiment,
    EvaluationExperiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.config.schema import is_finite, join, leaves
from kelip_lightning.distributed.accelerators import is_deepspeed
from kelip_lightning.losses.contrastive import bias_problem
from kelip_lightning.models.model_folder import REGULARISATION
from kelip_lightning.models.patches import num_kept
from kelip_lightning.optim.optimizers import OptimizerName

Rule = Callable[[], Iterable[str]]
Stage = MaskedPretrainExperiment | ContrastiveExperiment

AT_LEAST_ONE = frozenset(
    {
        "image_size",
        "patch_size",
        "local_size",
        "width",
        "depth",
        "num_heads",
        "decoder_width",
        "decoder_depth",
        "decoder_num_heads",
        "embed_dim",
        "global_batch_size",
        "vocab_size",
        "context_length",
        "devices",
        "num_nodes",
        "accumulate",
        "log_every_n_steps",
        "keep_last",
        "num_threads",
        "max_steps",
        "every_n_steps",
    }
)
"""Sizes and counts of which there must be one."""
NOT_NEGATIVE = frozenset({"num_workers"})
ABOVE_ZERO = frozenset({"mlp_ratio", "eps", "max_logit_scale"})


def rules(experiment: object, on_this_machine: bool) -> list[Rule]:
    """The rules for an experiment, the stages' own included.

    Args:
        experiment: An experiment, perhaps with values unset; others have only the rules on numbers.
        on_this_machine: Whether files, folders and devices that it names must be there.
    """
    found: list[Rule] = [partial(numbers, experiment)]
    if isinstance(experiment, EvaluationExperiment):
        found += _evaluation_rules(lambda: experiment.evaluation, "", on_this_machine)
    elif isinstance(experiment, PretrainExperiment):
        found.append(partial(stages_fit, experiment))
        for name in ("mae", "contrastive"):
            if isinstance(stage := getattr(experiment, name, None), Stage):
                found += _stage_rules(stage, name, on_this_machine)
    elif isinstance(experiment, Stage):
        found += _stage_rules(experiment, "", on_this_machine)
    return found


def _stage_rules(stage: Stage, prefix: str, on_this_machine: bool) -> list[Rule]:
    found: list[Rule] = [
        partial(batch_divides, stage, prefix),
        partial(sources_named, stage, prefix),
        partial(strategy_can, stage, prefix),
    ]
    if isinstance(stage, MaskedPretrainExperiment):
        found += [partial(mask_fits, stage, prefix), partial(crop_fits, stage, prefix)]
    else:
        found += [
            partial(crop_fits, stage, prefix),
            partial(local_crops_fit, stage, prefix),
            partial(negatives_exist, stage, prefix),
            partial(loss_fits, stage, prefix),
            partial(locks_fit, stage, prefix),
            partial(self_supervision.views_fit, stage, prefix),
            partial(self_supervision.branch_can_learn, stage, prefix),
            partial(captions_fit, stage, prefix),
            partial(trained_text_has_its_tokenizer, stage, prefix),
            *_evaluation_rules(lambda: stage.evaluation, prefix, on_this_machine),
        ]
    if on_this_machine:
        found += [
            partial(machine.sources_exist, stage, prefix),
            partial(machine.devices_exist, stage, prefix),
            partial(machine.deepspeed_is_installed, stage, prefix),
        ]
        if isinstance(stage, ContrastiveExperiment):
            found += [
                partial(machine.text_files_exist, stage, prefix),
                partial(machine.initial_encoder_fits, stage, prefix),
            ]
    return found


def _evaluation_rules(section: Callable[[], EvaluationConfig], prefix: str, on_this_machine: bool) -> list[Rule]:
    found: list[Rule] = [lambda: evaluation_speaks(section(), prefix)]
    return [*found, lambda: machine.evaluation_files_exist(section(), prefix)] if on_this_machine else found


def numbers(experiment: object) -> Iterator[str]:
    """Counts and sizes are at least 1, and every number is finite."""
    for key, value in leaves(experiment):
        name = key.rpartition(".")[2]
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not is_finite(value):
            yield f"{key} = {value} must be a finite number; give one"
        elif name in AT_LEAST_ONE and value < 1:
            yield f"{key} = {value} must be at least 1"
        elif name in NOT_NEGATIVE and value < 0:
            yield f"{key} = {value} must not be negative; 0 loads in the training process itself"
        elif name in ABOVE_ZERO and value <= 0:
            yield f"{key} = {value} must be above 0"


def batch_divides(stage: Stage, prefix: str) -> Iterator[str]:
    """Every device gets the same number of samples in every chunk."""
    batch, trainer = stage.data.global_batch_size, stage.trainer
    if batch % trainer.num_chunks:
        yield (
            f"{join(prefix, 'data.global_batch_size')} = {batch} must be a multiple of trainer.devices x "
            f"num_nodes x accumulate = {trainer.devices} x {trainer.num_nodes} x {trainer.accumulate}; "
            f"{_neighbours(batch, trainer.num_chunks)}"
        )


def negatives_exist(stage: ContrastiveExperiment, prefix: str) -> Iterator[str]:
    """A contrastive loss needs at least one other pair beside each."""
    batch = stage.data.global_batch_size
    if batch < 2:
        yield (
            f"{join(prefix, 'data.global_batch_size')} = {batch} leaves a pair without another to tell it from, "
            "and a contrastive loss needs at least 2"
        )


def loss_fits(stage: ContrastiveExperiment, prefix: str) -> Iterator[str]:
    """The sigmoid loss has its bias, and InfoNCE, to which it would mean nothing, has none."""
    if problem := bias_problem(stage.loss.kind, stage.dual_encoder.initial_logit_bias, join(prefix, "")):
        yield problem


def locks_fit(stage: ContrastiveExperiment, prefix: str) -> Iterator[str]:
    """What a locked image encoder cannot use is not asked for."""
    encoder = stage.image_encoder
    if not stage.init.lock_image_encoder:
        return
    for name in ("drop_path_rate", "dropout_rate"):
        if value := getattr(encoder, name):
            yield (
                f"{join(prefix, f'image_encoder.{name}')} = {value} would only blur an encoder that "
                f"{join(prefix, 'init.lock_image_encoder')} keeps from learning; set it to 0"
            )


def strategy_can(stage: Stage, prefix: str) -> Iterator[str]:
    """The strategy can honour the other settings."""
    trainer, strategy = stage.trainer, f"{join(prefix, 'trainer.strategy')} = {stage.trainer.strategy}"
    average = f"{join(prefix, 'trainer.ema_decay')} = {trainer.ema_decay}"
    if trainer.gradient_checkpointing and isinstance(stage, ContrastiveExperiment) and stage.text_encoder.hf_model:
        yield (
            f"{join(prefix, 'trainer.gradient_checkpointing')} = true does not reach inside text_encoder.hf_model = "
            f"{stage.text_encoder.hf_model}; use trainer.accumulate instead, or text_encoder.hf_model=null"
        )
    if trainer.ema_decay is not None and trainer.precision == "bf16-true":
        yield f"{average} would stand still in bfloat16; use trainer.precision=bf16-mixed, or trainer.ema_decay=null"
    if not is_deepspeed(trainer.strategy):
        return
    if stage.optimizer.name is OptimizerName.muon:
        yield (
            f"{join(prefix, 'optimizer.name')} = muon needs whole matrices, and {strategy} cuts them in pieces; "
            "use optimizer.name=adamw, or trainer.strategy=ddp"
        )
    if trainer.ema_decay is not None:
        yield f"{average} is not kept in the checkpoints of {strategy}; use trainer.strategy=ddp, or ema_decay=null"


def sources_named(stage: Stage, prefix: str) -> Iterator[str]:
    """There is something to train on."""
    if not stage.data.sources:
        yield f"{join(prefix, 'data.sources')} is empty; name at least one source with its files"


def crop_fits(stage: Stage, prefix: str) -> Iterator[str]:
    """Crops have the size for which the encoder stores positions, which is also the size at evaluation."""
    size, encoder = stage.transform.image_size, stage.image_encoder
    if size != encoder.image_size:
        yield (
            f"{join(prefix, 'transform.image_size')} = {size} must equal "
            f"{join(prefix, 'image_encoder.image_size')} = {encoder.image_size}; change one"
        )


def local_crops_fit(stage: ContrastiveExperiment, prefix: str) -> Iterator[str]:
    """Local crops are whole patches, and no larger than global ones."""
    transform, patch = stage.transform, stage.image_encoder.patch_size
    key = f"{join(prefix, 'transform.local_size')} = {transform.local_size}"
    if not transform.num_local_crops:
        return
    if transform.local_size % patch:
        yield (
            f"{key} must be a multiple of {join(prefix, 'image_encoder.patch_size')} = {patch}; "
            f"{_neighbours(transform.local_size, patch)}"
        )
    if transform.local_size > transform.image_size:
        limit = join(prefix, "transform.image_size")
        yield f"{key} must not exceed {limit} = {transform.image_size}; local crops are the small ones"


def mask_fits(stage: MaskedPretrainExperiment, prefix: str) -> Iterator[str]:
    """At least one patch is seen and at least one is hidden."""
    ratio, patches = stage.masked_autoencoder.mask_ratio, stage.image_encoder.num_patches
    if num_kept(patches, ratio) == patches or patches * (1 - ratio) < 1 - 1e-9:
        yield (
            f"{join(prefix, 'masked_autoencoder.mask_ratio')} = {ratio} of {patches} patches must leave at "
            "least one patch visible and one hidden; change it, or image_encoder.patch_size"
        )


def captions_fit(stage: ContrastiveExperiment, prefix: str) -> Iterator[str]:
    """The most keywords that a caption may show fit into the context, at one token each."""
    captions, context = stage.data.captions, stage.tokenizer.context_length
    if captions.name < 1 and captions.max_keywords + 2 > context:
        yield (
            f"{join(prefix, 'tokenizer.context_length')} = {context} cannot hold start, end and "
            f"{join(prefix, 'data.captions.max_keywords')} = {captions.max_keywords} keywords; "
            f"use at least {captions.max_keywords + 2} tokens, or fewer keywords"
        )


def trained_text_has_its_tokenizer(stage: ContrastiveExperiment, prefix: str) -> Iterator[str]:
    """Trained weights of a text model mean the ids of the tokenizer that they were trained with."""
    if stage.text_encoder.hf_weights and stage.tokenizer.file is None:
        yield (
            f"{join(prefix, 'text_encoder.hf_weights')} = true needs {join(prefix, 'tokenizer.file')}, "
            f"the tokenizer.json of {stage.text_encoder.hf_model}; or use hf_weights=false"
        )


def evaluation_speaks(evaluation: EvaluationConfig, prefix: str) -> Iterator[str]:
    """Every set has captions in the languages that it needs."""
    tables = [(f"retrieval.{name}", one.table, 1) for name, one in evaluation.retrieval.items()]
    tables += [(f"captions.{name}", one.table, len(LANGUAGES)) for name, one in evaluation.captions.items()]
    for name, table, needed in tables:
        key = join(prefix, f"evaluation.{name}.table.captions")
        if unknown := sorted(set(table.captions) - set(LANGUAGES)):
            yield f"{key} names the language {unknown[0]!r}; use {' or '.join(LANGUAGES)}"
        elif len(table.captions) < needed:
            wanted = "both ko and en" if needed > 1 else "ko, en or both"
            yield f"{key} = {table.captions} must name a caption column for {wanted}"


def stages_fit(experiment: PretrainExperiment) -> Iterator[str]:
    """The encoder that MAE pre-training hands over is the one that contrastive training goes on with."""
    mae, contrastive = experiment.mae, experiment.contrastive
    if mae is None:
        return
    for field in fields(contrastive.image_encoder):
        ours = getattr(contrastive.image_encoder, field.name)
        theirs = getattr(mae.image_encoder, field.name)
        if field.name not in REGULARISATION and ours != theirs:
            yield (
                f"contrastive.image_encoder.{field.name} = {getattr(ours, 'name', ours)} must equal "
                f"mae.image_encoder.{field.name} = {getattr(theirs, 'name', theirs)}; "
                f"image_encoder.{field.name}=VALUE sets both"
            )
    if contrastive.init.image_encoder is not None:
        yield (
            f"contrastive.init.image_encoder = {contrastive.init.image_encoder} would be overridden by the "
            "encoder that MAE pre-training exports; remove it, or set mae=null"
        )


def _neighbours(value: int, step: int) -> str:
    below = value - value % step
    return f"use {below} or {below + step}" if below else f"use {step}"
