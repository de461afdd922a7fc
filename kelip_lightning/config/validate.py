"""Rules over several sections, and over the machine: each yields one sentence per problem.

A sentence names dotted key, value, rule and remedy. A rule may read any value: `run_rule` skips it where one is unset.
Rules that need torch or timm import them where they run, after all others have passed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_modules.benchmarks.layouts.availability import missing_files
from data_modules.config import resize_problem
from data_modules.errors import DataError
from data_modules.languages import LANGUAGES
from data_modules.paths import elsewhere, resolve_files, resolve_path, resolve_shards
from data_modules.sources.config import SourceFormat, source_format
from kelip_lightning.config.evaluation import EvaluationExperiment
from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment, PretrainExperiment
from kelip_lightning.distributed.accelerators import AUTO, is_deepspeed
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.losses.config import bias_problem
from kelip_lightning.models.config import REGULARISATION, SelfSupervisionMethod, num_kept
from kelip_lightning.models.stored_config import check_image_encoder
from kelip_lightning.optim.config import OptimizerName

Stage = MaskedPretrainExperiment | ContrastiveExperiment
Rule = Callable[[Any, str], Iterable[str]]
"""(experiment or stage, prefix of its keys, such as "mae.") -> problems."""


def rules(experiment: object, on_this_machine: bool) -> list[Callable[[], Iterable[str]]]:
    """The rules for an experiment and its stages that need no heavy import; none for other sections.

    Args:
        experiment: An experiment, perhaps with values unset.
        on_this_machine: Whether the files and folders that it names must exist.
    """
    on_stages = _on_stages(experiment, lambda one: _rules_for(one, on_this_machine))
    return [partial(stages_fit, experiment), *on_stages] if isinstance(experiment, PretrainExperiment) else on_stages


def heavy_rules(experiment: object, on_this_machine: bool) -> list[Callable[[], Iterable[str]]]:
    """The rules that import torch or timm, for an experiment that meets all of `rules`.

    Args:
        experiment: An experiment, or another section, for which there are none.
        on_this_machine: Whether the devices that it names must exist.
    """
    return _on_stages(experiment, lambda one: _heavy_rules_for(one, on_this_machine))


def _on_stages(experiment: object, rules_of: Callable[[object], Sequence[Rule]]) -> list[Callable[[], Iterable[str]]]:
    stages = {"": experiment}
    if isinstance(experiment, PretrainExperiment):
        stages = {f"{name}.": getattr(experiment, name, None) for name in ("mae", "contrastive")}
    return [partial(rule, stage, at) for at, stage in stages.items() for rule in rules_of(stage)]


def _rules_for(experiment: object, on_this_machine: bool) -> Sequence[Rule]:
    found: list[Rule] = []
    on_data: list[Rule] = [batch_divides, sources_named, strategy_supports]
    on_machine: list[Rule] = [sources_exist, deepspeed_is_installed, loggers_are_installed]
    if isinstance(experiment, EvaluationExperiment):
        found, on_machine = [evaluation_languages], [evaluation_files_exist]
    elif isinstance(experiment, MaskedPretrainExperiment):
        found = [*on_data, mask_fits, crop_fits, probe_sets_exist]
    elif isinstance(experiment, ContrastiveExperiment):
        found = [*on_data, crop_fits, local_crops_fit, device_resizes, negatives_exist, loss_fits, locks_fit, views_fit]
        found += [self_supervision_can_learn, captions_fit, text_weights_need_tokenizer, evaluation_languages]
        found += [projected_set_exists]
        on_machine = [evaluation_files_exist, *on_machine, text_files_exist, initial_encoder_fits]
    else:
        return []
    return [*found, *on_machine] if on_this_machine else found


def _heavy_rules_for(experiment: object, on_this_machine: bool) -> Sequence[Rule]:
    if not isinstance(experiment, MaskedPretrainExperiment | ContrastiveExperiment):
        return []
    return [timm_model_fits, devices_exist] if on_this_machine else [timm_model_fits]


def batch_divides(stage: Stage, at: str) -> Iterator[str]:
    """Every device gets the same number of samples in every chunk."""
    batch, trainer = stage.data.global_batch_size, stage.trainer
    if batch % trainer.num_chunks:
        yield (
            f"{at}data.global_batch_size = {batch} must be a multiple of trainer.devices x "
            f"num_nodes x accumulate = {trainer.devices} x {trainer.num_nodes} x {trainer.accumulate}; "
            f"{_neighbours(batch, trainer.num_chunks)}"
        )


def negatives_exist(stage: ContrastiveExperiment, at: str) -> Iterator[str]:
    """Each pair has at least one negative."""
    batch = stage.data.global_batch_size
    if batch < 2:
        yield f"{at}data.global_batch_size = {batch} must be at least 2: a contrastive loss needs negatives"


def loss_fits(stage: ContrastiveExperiment, at: str) -> Iterator[str]:
    """The sigmoid loss has a bias, InfoNCE has none."""
    if problem := bias_problem(stage.loss.kind, stage.dual_encoder.initial_logit_bias, at):
        yield problem


def locks_fit(stage: ContrastiveExperiment, at: str) -> Iterator[str]:
    """A locked image encoder has no dropout, and no more blocks are unlocked than there are."""
    for name in ("drop_path_rate", "dropout_rate"):
        if (value := getattr(stage.image_encoder, name)) and stage.init.lock_image_encoder:
            yield f"{at}image_encoder.{name} = {value} must be 0 with {at}init.lock_image_encoder = true"
    for tower, depth in (("image", stage.image_encoder.depth), ("text", stage.text_encoder.depth)):
        if (number := getattr(stage.init, f"unlock_{tower}_blocks")) > depth:
            yield (
                f"{at}init.unlock_{tower}_blocks = {number} must not exceed {at}{tower}_encoder.depth = {depth}; "
                "lower it, or do not lock the encoder"
            )


def strategy_supports(stage: Stage, at: str) -> Iterator[str]:
    """Strategy and precision support the other settings of the trainer and the optimizer."""
    trainer, strategy = stage.trainer, f"{at}trainer.strategy = {stage.trainer.strategy}"
    average = f"{at}trainer.ema_decay = {trainer.ema_decay}"
    if trainer.gradient_checkpointing and isinstance(stage, ContrastiveExperiment) and stage.text_encoder.hf_model:
        yield (
            f"{at}trainer.gradient_checkpointing = true does not reach inside text_encoder.hf_model = "
            f"{stage.text_encoder.hf_model}; use trainer.accumulate instead, or text_encoder.hf_model=null"
        )
    if trainer.ema_decay is not None and trainer.precision == "bf16-true":
        yield f"{average} would not change in bfloat16; use trainer.precision=bf16-mixed, or trainer.ema_decay=null"
    if not is_deepspeed(trainer.strategy):
        return
    if stage.optimizer.name is OptimizerName.muon:
        yield (
            f"{at}optimizer.name = muon needs whole matrices, and {strategy} partitions them; "
            "use optimizer.name=adamw, or trainer.strategy=ddp"
        )
    if trainer.ema_decay is not None:
        yield f"{average} is not kept in the checkpoints of {strategy}; use trainer.strategy=ddp, or ema_decay=null"


def sources_named(stage: Stage, at: str) -> Iterator[str]:
    """There is at least one source."""
    if not stage.data.sources:
        yield f"{at}data.sources is empty; name at least one source with its files"


def crop_fits(stage: Stage, at: str) -> Iterator[str]:
    """Crops have the size of the encoder's position embeddings and of evaluation images."""
    size, encoder = stage.transform.image_size, stage.image_encoder
    if size != encoder.image_size:
        yield (
            f"{at}transform.image_size = {size} must equal "
            f"{at}image_encoder.image_size = {encoder.image_size}; change one"
        )


def local_crops_fit(stage: ContrastiveExperiment, at: str) -> Iterator[str]:
    """Local crops divide into patches and are no larger than global crops."""
    transform, patch = stage.transform, stage.image_encoder.patch_size
    key = f"{at}transform.local_size = {transform.local_size}"
    if not transform.num_local_crops:
        return
    if transform.local_size % patch:
        yield (
            f"{key} must be a multiple of {at}image_encoder.patch_size = {patch}; "
            f"{_neighbours(transform.local_size, patch)}"
        )
    if transform.local_size > transform.image_size:
        limit = f"{at}transform.image_size"
        yield f"{key} must not exceed {limit} = {transform.image_size}"


def device_resizes(stage: ContrastiveExperiment, at: str) -> Iterator[str]:
    """Crops that the device resizes are not augmented on the CPU."""
    if problem := resize_problem(stage.data.resize_on_device, stage.transform, at):
        yield problem


def mask_fits(stage: MaskedPretrainExperiment, at: str) -> Iterator[str]:
    """At least one patch is visible and at least one is masked."""
    ratio, patches = stage.masked_autoencoder.mask_ratio, stage.image_encoder.num_patches
    if num_kept(patches, ratio) == patches or patches * (1 - ratio) < 1 - 1e-9:
        yield (
            f"{at}masked_autoencoder.mask_ratio = {ratio} of {patches} patches must leave at "
            "least one patch visible and one masked; change it, or image_encoder.patch_size"
        )


def captions_fit(stage: ContrastiveExperiment, at: str) -> Iterator[str]:
    """`max_keywords` keywords fit into the context, at one token each."""
    captions, context = stage.data.captions, stage.tokenizer.context_length
    if captions.name < 1 and captions.max_keywords + 2 > context:
        yield (
            f"{at}tokenizer.context_length = {context} cannot hold start, end and "
            f"{at}data.captions.max_keywords = {captions.max_keywords} keywords; "
            f"use at least {captions.max_keywords + 2} tokens, or fewer keywords"
        )


def text_weights_need_tokenizer(stage: ContrastiveExperiment, at: str) -> Iterator[str]:
    """A text model with pretrained weights has its own tokenizer."""
    if stage.text_encoder.hf_weights and stage.tokenizer.file is None and stage.init.model is None:
        yield (
            f"{at}text_encoder.hf_weights = true needs {at}tokenizer.file, "
            f"the tokenizer.json of {stage.text_encoder.hf_model}; or use hf_weights=false"
        )


def evaluation_languages(experiment: ContrastiveExperiment | EvaluationExperiment, at: str) -> Iterator[str]:
    """Every evaluation set has captions in the languages that it needs."""
    evaluation = experiment.evaluation
    tables = [(f"retrieval.{name}", one.table, 1) for name, one in evaluation.retrieval.items()]
    tables += [(f"captions.{name}", one.table, len(LANGUAGES)) for name, one in evaluation.captions.items()]
    for name, table, needed in tables:
        key = f"{at}evaluation.{name}.table.captions"
        if len(table.captions) + len(table.texts) < needed:
            wanted = "both ko and en" if needed > 1 else "ko, en or both"
            yield f"{key} = {table.captions} must name a caption column for {wanted}"


def projected_set_exists(stage: ContrastiveExperiment, at: str) -> Iterator[str]:
    """The projector's set is a retrieval set."""
    name, known = stage.projector.set, list(stage.evaluation.retrieval)
    if name is not None and name not in known:
        listed = f"those are {', '.join(known)}" if known else "there is none"
        yield f"{at}projector.set = {name} must be a set of {at}evaluation.retrieval; {listed}"


def probe_sets_exist(stage: MaskedPretrainExperiment, at: str) -> Iterator[str]:
    """An interval of probes, and a best metric of MAE pre-training, need a probe."""
    if stage.probe.is_given and not stage.probe.sets:
        yield f"{at}probe has an interval, but no set; name one in {at}probe.sets, or remove the interval"
    if stage.checkpoint.best_metric is not None and not stage.probe.sets:
        yield (
            f"{at}checkpoint.best_metric = {stage.checkpoint.best_metric} needs a set in {at}probe.sets, as only "
            "probes evaluate MAE pre-training; add one, or set contrastive.checkpoint.best_metric alone"
        )


def stages_fit(experiment: PretrainExperiment) -> Iterator[str]:
    """Both stages have the same image encoder and processes, and contrastive training starts from the exported one."""
    mae, contrastive = experiment.mae, experiment.contrastive
    if mae is None:
        return
    for key in ("devices", "num_nodes"):
        ours, theirs = getattr(contrastive.trainer, key), getattr(mae.trainer, key)
        if ours != theirs and AUTO not in (ours, theirs):
            yield (
                f"contrastive.trainer.{key} = {ours} must equal mae.trainer.{key} = {theirs}, as one command starts "
                f"the processes of both stages; trainer.{key}=VALUE sets both"
            )
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
    if contrastive.init.model is not None:
        yield (
            f"contrastive.init.model = {contrastive.init.model} has an image encoder of its own, so MAE pre-training "
            "would have no effect; set mae=null, or remove init.model"
        )


def views_fit(stage: ContrastiveExperiment, at: str) -> Iterator[str]:
    """Two views with a self-supervised method, none without."""
    method, number = stage.self_supervision.method, stage.transform.views.num_views
    views, key = f"{at}transform.views.num_views", f"{at}self_supervision.method"
    if method is SelfSupervisionMethod.none and number:
        yield f"{views} = {number}, but {key} = none uses no views; set it to 0, or the method to simclr or byol"
    elif method is not SelfSupervisionMethod.none and number != 2:
        yield f"{views} = {number}, but {key} = {method.name} compares exactly two views; set it to 2"


def self_supervision_can_learn(stage: ContrastiveExperiment, at: str) -> Iterator[str]:
    """The encoder is trained, and precision and strategy allow BYOL's moving average."""
    method, trainer = stage.self_supervision.method, stage.trainer
    if method is SelfSupervisionMethod.none:
        return
    key = f"{at}self_supervision.method = {method.name}"
    if stage.init.lock_image_encoder and not stage.init.unlock_image_blocks:
        yield (
            f"{key} would train only its own heads with {at}init.lock_image_encoder = true; "
            "unlock the encoder, or set method to none"
        )
    if method is not SelfSupervisionMethod.byol:
        return
    if is_deepspeed(trainer.strategy):
        yield (
            f"{key} keeps a moving average, which {at}trainer.strategy = {trainer.strategy} would cast "
            "or partition; use trainer.strategy=ddp, or method=simclr"
        )
    if trainer.precision == "bf16-true":
        yield (
            f"{key} keeps a moving average, which would not change under {at}trainer.precision = "
            "bf16-true; use bf16-mixed, or method=simclr"
        )


def sources_exist(stage: Stage, at: str) -> Iterator[str]:
    """Every file pattern of every source matches a file."""
    for name, source in stage.data.sources.items():
        key = f"{at}data.sources.{name}.files"
        if source_format(source) is SourceFormat.folder:
            yield from _missing_files(key, source.files)
        elif source_format(source) in (SourceFormat.shards, SourceFormat.table):
            yield from _missing_shards(key, source.files)


def text_files_exist(stage: ContrastiveExperiment, at: str) -> Iterator[str]:
    """The caption templates and the tokenizer file exist."""
    yield from _missing_file(f"{at}data.captions.templates_file", stage.data.captions.templates_file)
    yield from _missing_file(f"{at}tokenizer.file", stage.tokenizer.file)


def evaluation_files_exist(experiment: ContrastiveExperiment | EvaluationExperiment, at: str) -> Iterator[str]:
    """The files of every evaluation set exist."""
    evaluation = experiment.evaluation
    sections: dict[str, Mapping[str, Any]] = {"retrieval": evaluation.retrieval, "captions": evaluation.captions}
    sections |= {"classification": evaluation.classification, "choices": evaluation.choices}
    for section, sets in sections.items():
        for name, one in sets.items():
            for place in missing_files(one.table, evaluation.data_folder, getattr(one, "classes_file", None)):
                yield f"{at}evaluation.{section}.{name}: no file matches '{place}'{elsewhere(place)}; correct the path"


def initial_encoder_fits(stage: ContrastiveExperiment, at: str) -> Iterator[str]:
    """The folder `init.image_encoder` holds the configured encoder."""
    if stage.init.image_encoder is None:
        return
    folder = Path(stage.init.image_encoder)
    try:
        check_image_encoder(folder, stage.image_encoder)
    except EncoderFileError as error:
        text = str(error)
        yield f"{at}{text}" if text.startswith("init.") else f"{at}init.image_encoder = {folder}: {text}"


def deepspeed_is_installed(stage: Stage, at: str) -> Iterator[str]:
    """DeepSpeed is installed where the strategy needs it."""
    if is_deepspeed(stage.trainer.strategy) and find_spec("deepspeed") is None:
        yield (
            f"{at}trainer.strategy = {stage.trainer.strategy} needs DeepSpeed, which is not installed; "
            "install kelip-lightning[deepspeed], or use ddp"
        )


def loggers_are_installed(stage: Stage, at: str) -> Iterator[str]:
    """The packages of the loggers are installed."""
    for name in stage.trainer.loggers:
        if name != "csv" and find_spec(name) is None:
            yield (
                f"{at}trainer.loggers: {name} is not installed; pip install 'kelip-lightning[{name}]', or leave it out"
            )


def timm_model_fits(stage: Stage, at: str) -> Iterator[str]:
    """The installed timm has the model `image_encoder.timm_name`, of the sizes that the other keys give."""
    if stage.image_encoder.timm_name is None:
        return
    from kelip_lightning.models.image_encoder import timm_problem

    if problem := timm_problem(stage.image_encoder):
        yield f"{at}image_encoder.{problem}"


def devices_exist(stage: Stage, at: str) -> Iterator[str]:
    """The machine has the configured devices."""
    import torch

    trainer = stage.trainer
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if trainer.accelerator == "gpu" and not available:
        yield f"{at}trainer.accelerator = gpu, but torch finds no GPU; use auto or cpu"
    elif trainer.accelerator != "cpu" and 0 < available < trainer.num_devices:
        key = f"{at}trainer.devices"
        yield f"{key} = {trainer.devices}, but this machine has {available} GPU(s); use fewer"


def _missing_files(key: str, patterns: list[str]) -> Iterator[str]:
    for pattern in patterns:
        try:
            resolve_files([pattern])
        except DataError as error:
            yield f"{key}: {error}"


def _missing_shards(key: str, patterns: list[str]) -> Iterator[str]:
    try:
        resolve_shards(patterns)
    except DataError as error:
        yield f"{key}: {error}"


def _missing_file(key: str, path: str | None) -> Iterator[str]:
    if path is not None and not resolve_path(path).is_file():
        yield f"{key} = {path} does not exist{elsewhere(path)}; correct the path"


def _neighbours(value: int, step: int) -> str:
    below = value - value % step
    return f"use {below} or {below + step}" if below else f"use {step}"
