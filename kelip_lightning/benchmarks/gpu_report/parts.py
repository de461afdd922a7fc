"""The parts of the report, in order; their time limits together are ten minutes."""

from kelip_lightning.benchmarks.gpu_report.runner import Part

_HERE = "kelip_lightning.benchmarks.gpu_report"

PARTS = (
    Part(
        name="pretrain",
        about="both stages of the emoji experiment, deterministic twice and without",
        seconds=90,
        work=f"{_HERE}.training:pretrain",
    ),
    Part(
        name="certificate",
        about="the gradient of a step against float32 on one CPU process",
        seconds=40,
        work=f"{_HERE}.training:certificate",
    ),
    Part(
        name="strategies",
        about="losses under DDP and ZeRO-2 against one process",
        seconds=60,
        work=f"{_HERE}.steps:strategies",
    ),
    Part(
        name="compile",
        about="losses and times in float32, bf16 and bf16 compiled",
        seconds=65,
        work=f"{_HERE}.steps:compiled",
    ),
    Part(
        name="sweep",
        about="steps of 32 to 1,024 pairs beside open_clip's",
        seconds=90,
        work=f"{_HERE}.sweep:eager",
    ),
    Part(
        name="sweep_compiled",
        about="the same, all compiled",
        seconds=115,
        work=f"{_HERE}.sweep:compiled",
    ),
    Part(
        name="captions",
        about="captions without padding in bf16 against padded ones",
        seconds=25,
        work=f"{_HERE}.captions:captions",
    ),
    Part(
        name="mae_step",
        about="a step of MAE pre-training against the CPU's, and its time",
        seconds=30,
        work=f"{_HERE}.steps:masked",
    ),
    Part(
        name="memory",
        about="peak memory of a step against the estimate of kelip plan",
        seconds=30,
        work=f"{_HERE}.memory:memory",
    ),
    Part(
        name="loader",
        about="pairs that the loader makes against those that the step takes; crops cut on the device",
        seconds=30,
        work=f"{_HERE}.loader:loader",
    ),
    Part(
        name="evaluation",
        about="embeddings and outcomes of an evaluation against the CPU's",
        seconds=25,
        work=f"{_HERE}.evaluation:evaluation",
    ),
)
"""Every part."""
