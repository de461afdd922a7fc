"""Rules on the self-supervised loss beside the contrastive one."""

from collections.abc import Iterator

from kelip_lightning.config.experiment import ContrastiveExperiment
from kelip_lightning.config.schema import join
from kelip_lightning.distributed.accelerators import is_deepspeed
from kelip_lightning.models.self_supervision import SelfSupervisionMethod


def views_fit(stage: ContrastiveExperiment, prefix: str) -> Iterator[str]:
    """A method has its two views, and views, which nothing else reads, have a method."""
    method, number = stage.self_supervision.method, stage.transform.views.num_views
    views, key = join(prefix, "transform.views.num_views"), join(prefix, "self_supervision.method")
    if method is SelfSupervisionMethod.none and number:
        yield f"{views} = {number}, but {key} = none reads no views; set it to 0, or the method to simclr or byol"
    elif method is not SelfSupervisionMethod.none and number != 2:
        yield f"{views} = {number}, but {key} = {method.name} compares exactly two views; set it to 2"


def branch_can_learn(stage: ContrastiveExperiment, prefix: str) -> Iterator[str]:
    """The encoder learns, and what is trained can hold a moving average."""
    method, trainer = stage.self_supervision.method, stage.trainer
    if method is SelfSupervisionMethod.none:
        return
    key = f"{join(prefix, 'self_supervision.method')} = {method.name}"
    if stage.init.lock_image_encoder:
        yield (
            f"{key} would train nothing but its own heads beside {join(prefix, 'init.lock_image_encoder')} = true; "
            "unlock the encoder, or set method to none"
        )
    if method is not SelfSupervisionMethod.byol:
        return
    if is_deepspeed(trainer.strategy):
        yield (
            f"{key} keeps a moving average, which {join(prefix, 'trainer.strategy')} = {trainer.strategy} would cast "
            "or cut in pieces; use trainer.strategy=ddp, or method=simclr"
        )
    if trainer.precision == "bf16-true":
        yield (
            f"{key} keeps a moving average, which would stand still under {join(prefix, 'trainer.precision')} = "
            "bf16-true; use bf16-mixed, or method=simclr"
        )
