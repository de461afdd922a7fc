"""`kelip benchmark step|loss|data|store|evaluation|run|gpu`: speed and memory, as anyone can measure them again."""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kelip_lightning.cli.benchmark_gpu import add_gpu_arguments, run_gpu_report
from kelip_lightning.cli.verb import add_overrides_argument, positive_count, verb

if TYPE_CHECKING:
    from kelip_lightning.benchmarks.step.setting import StepSetting

FOLDER = Path("runs/benchmarks")
MODELS: dict[str, dict[str, Any]] = {
    "vit_b32": {"captions": "cc3m_like", "batch": 64},
    "emoji": {"captions": "emoji", "batch": 256},
    "tiny": {"captions": "cc3m_like", "batch": 8},
}
"""Model -> defaults of the options that depend on it; `tiny` is the model of --smoke."""
LENGTHS = {
    "vit_b32": {"rounds": 4, "warmup": 3, "steps": 4},
    "emoji": {"rounds": 7, "warmup": 4, "steps": 16},
}
GROWTH_LENGTHS = {
    "vit_b32": {"rounds": 3, "warmup": 2, "steps": 2},
    "emoji": {"rounds": 3, "warmup": 4, "steps": 16},
}
SMOKE_LENGTH = {"rounds": 1, "warmup": 1, "steps": 2}
GROWTH_BATCH = {"vit_b32": 32, "emoji": 32, "tiny": 8}
"""The smallest of four batches."""
LOSS_SIZES = {
    "local": "pairs of one device (default: 2048)",
    "total": "pairs of the global batch (default: 32768)",
    "width": "of the features (default: 512)",
}
LOSS_SMOKE: dict[str, Any] = {"local": 256, "total": 4096, "width": 64, "chunks": [256]}
EVALUATION_SIZES = {
    "pictures": "of the classification set (default: 50000)",
    "queries": "pictures of the retrieval set (default: 5000)",
    "timed": "pictures of the timed classification set (default: 1500)",
    "width": "of the encoders of the memory measurement (default: 64)",
}
EVALUATION_SMOKE = {"pictures": 200, "queries": 40, "timed": 100, "width": 8, "timed_width": 8, "timed_depth": 1}
STORE_SIZES = {
    "delay-ms": "milliseconds before each answer of the store (default: 30)",
    "shards": "of 500 samples (default: 263, which are two windows)",
    "window": "order.shuffle_window (default: 65536)",
    "seconds": "of a measurement without a window (default: 20)",
}
STORE_SMOKE: dict[str, Any] = {"delay_ms": 1, "image_kb": 2, "shards": 2, "window": 400, "workers": [1], "seconds": 1}
DATA_SMOKE = {"sizes": [256], "repeats": 1, "batches": 1}
COMPILED_WARMUP = 5
"""All four batches of a round once, and the first again: their captions have different lengths to compile for."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    _add_step_arguments(actions.add_parser("step", help="the training step beside open_clip's and a plain PyTorch one"))
    _add_loss_arguments(actions.add_parser("loss", help="memory and time of the contrastive loss, whole and in chunks"))
    _add_evaluation_arguments(
        actions.add_parser("evaluation", help="memory and time of an evaluation on 1 and 2 ranks")
    )
    _add_data_arguments(actions.add_parser("data", help="samples per CPU second of the data path, beside open_clip's"))
    _add_store_arguments(
        actions.add_parser("store", help="samples per second from an S3 server here, beside WebDataset's reader")
    )
    _add_run_arguments(actions.add_parser("run", help="where the time of a whole run goes"))
    add_gpu_arguments(actions.add_parser("gpu", help="everything that only a GPU can check, in one report"))


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes", type=positive_count, nargs="+", metavar="PIXELS", help="short sides (default: 256 512 1024)"
    )
    parser.add_argument("--repeats", type=positive_count, metavar="N", help="of which the best counts (default: 3)")
    _add_common_arguments(parser)


def _add_store_arguments(parser: argparse.ArgumentParser) -> None:
    for name, meaning in STORE_SIZES.items():
        parser.add_argument(f"--{name}", type=positive_count, metavar="N", help=meaning)
    parser.add_argument(
        "--workers", type=positive_count, nargs="+", metavar="N", help="numbers of loader processes (default: 1 4)"
    )
    _add_common_arguments(parser)


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", metavar="FILE.yaml|RUN", nargs="?", type=Path, help="an experiment to train, or a run that has ended"
    )
    add_overrides_argument(parser)
    _add_common_arguments(parser)


def _add_loss_arguments(parser: argparse.ArgumentParser) -> None:
    for name, meaning in LOSS_SIZES.items():
        parser.add_argument(f"--{name}", type=positive_count, metavar="N", help=meaning)
    parser.add_argument(
        "--chunks", type=positive_count, nargs="+", metavar="N", help="values of loss.max_logits_per_pair"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument(
        "--precision",
        choices=["auto", "float32", "tf32x3"],
        default="float32",
        help="loss.matmul_precision; plain autograd multiplies in float32 (default: float32)",
    )
    _add_common_arguments(parser)


def _add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    for name, meaning in EVALUATION_SIZES.items():
        parser.add_argument(f"--{name}", type=positive_count, metavar="N", help=meaning)
    _add_common_arguments(parser)


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=FOLDER, metavar="FOLDER", help=f"folder of the JSON and the plot ({FOLDER})"
    )
    parser.add_argument("--smoke", action="store_true", help="defaults that take seconds, to test the command")


def _add_step_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=["vit_b32", "emoji"], help="sizes of the towers (default: vit_b32)")
    parser.add_argument("--batch", type=positive_count, metavar="N", help="pairs of a step (vit_b32: 64, emoji: 256)")
    parser.add_argument(
        "--captions",
        choices=["emoji", "cc3m_like"],
        help="distribution of caption lengths (default: emoji for the model emoji, else cc3m_like)",
    )
    parser.add_argument(
        "--local-crops", type=_count, default=0, metavar="N", help="beside the global crop (default: 0)"
    )
    parser.add_argument(
        "--precision", choices=["auto", "32", "bf16-mixed"], default="auto", help="arithmetic, as trainer.precision"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--threads", type=positive_count, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--compile", action="store_true", help="torch.compile for every contestant")
    parser.add_argument(
        "--growth",
        action="store_true",
        help="measure ours alone: batches of N to 8 N, twice the depth, MAE pre-training, multi-crop (default N: 32)",
    )
    parser.add_argument("--rounds", type=positive_count, metavar="N", help="processes (default: 4, emoji 7, growth 3)")
    parser.add_argument(
        "--warmup",
        type=positive_count,
        metavar="N",
        help="untimed steps of a round (default: 3; emoji, compiled: more)",
    )
    parser.add_argument(
        "--steps", type=positive_count, metavar="N", help="timed steps of a round (default: 4, emoji 16)"
    )
    _add_common_arguments(parser)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least 0")
    return int(text)


@verb(_add_arguments)
def benchmark(arguments: argparse.Namespace) -> int:
    """Measure speed and memory, beside other libraries where they do the same.

    step: our step as the Trainer takes it (ours); open_clip's model and loss in its loop, captions padded to the
    context (open_clip_77) or to the longest of the batch (open_clip_longest); and plain PyTorch (plain). All start from
    the same weights, train on the same batches with the same optimizer, and are compared gradient by gradient first.
    Prints a table, writes step.json and step.png. With --growth: how the cost of our step grows, beside its counted
    operations; growth.json and growth.png.
    loss: the contrastive loss in chunks, in one matrix, and in plain autograd; loss.json and loss.png.
    data: samples per CPU second of the data path, its upper bound and open_clip's loader; data.json and data.png.
    store: samples per second from shards in an S3 server (moto) on this machine that answers late, for several numbers
    of loader processes, beside WebDataset's reader; store.json and store.png. Needs kelip-lightning[store].
    evaluation: an evaluation of many pictures on one rank and on two; evaluation.json and evaluation.png.
    run: where the time of a whole run goes, of one that has ended or of an experiment that is trained for it in a
    temporary folder; run.json and run.png.
    gpu: training, strategies, compilation, speed, memory, loader and evaluation on this machine's GPU, in under ten
    minutes; report.json and report.md. An interrupted report continues with the parts that are not done.

      kelip benchmark step --threads 2
      kelip benchmark step --model emoji --precision bf16-mixed
      kelip benchmark step --model emoji --growth
      kelip benchmark step --smoke
      kelip benchmark run experiments/emoji/pretrain.yaml
      kelip benchmark run runs/emoji
      kelip benchmark gpu --parts pretrain,memory

    See docs/performance.md.
    """
    actions = {
        "step": _step,
        "loss": _loss,
        "data": _data,
        "store": _store,
        "evaluation": _evaluation,
        "run": _run,
        "gpu": run_gpu_report,
    }
    return actions[arguments.action](arguments)


def _step(arguments: argparse.Namespace) -> int:
    from kelip_lightning.benchmarks.step.benchmark import run_step_benchmark
    from kelip_lightning.benchmarks.step.report import write_report
    from kelip_lightning.cli.benchmark_tables import print_step_report

    if arguments.growth:
        return _growth(arguments)
    length = _length(arguments, LENGTHS)
    report = run_step_benchmark(_step_setting(arguments), **length, progress=_print_progress)
    print_step_report(report, write_report(report, arguments.output))
    for one in (one for one in report.agreements if not one.holds):
        _print_progress(
            f"{one.peer} does not take our step, so their times cannot be compared: the loss differs by "
            f"{one.loss_error:.1e}, the gradient of {one.worst_parameter} by {one.gradient_error:.1e}"
        )
    return 0 if report.agrees else 1


def _growth(arguments: argparse.Namespace) -> int:
    from kelip_lightning.benchmarks.step.benchmark import run_growth_benchmark
    from kelip_lightning.benchmarks.step.growth_report import write_growth_report
    from kelip_lightning.cli.benchmark_tables import print_growth_report
    from kelip_lightning.errors import ConfigError

    if arguments.local_crops:
        raise ConfigError(["--local-crops has no effect with --growth, which measures 4 beside 2 global crops"])
    length = _length(arguments, GROWTH_LENGTHS)
    report = run_growth_benchmark(_step_setting(arguments), **length, progress=_print_progress)
    print_growth_report(report, write_growth_report(report, arguments.output))
    return 0


def _length(arguments: argparse.Namespace, of_models: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Rounds, warm-up and steps: those given, else the defaults."""
    defaults = dict(SMOKE_LENGTH if arguments.smoke else of_models[_model(arguments)])
    if arguments.compile:
        defaults["warmup"] = max(defaults["warmup"], COMPILED_WARMUP)
    return {name: getattr(arguments, name) or default for name, default in defaults.items()}


def _model(arguments: argparse.Namespace) -> str:
    return str(arguments.model or ("tiny" if arguments.smoke else "vit_b32"))


def _step_setting(arguments: argparse.Namespace) -> "StepSetting":
    from kelip_lightning.benchmarks.step.captions import Captions
    from kelip_lightning.benchmarks.step.setting import ModelName, StepSetting
    from kelip_lightning.distributed.accelerators import choose_precision

    model = _model(arguments)
    defaults = MODELS[model]
    device = _device(arguments.device)
    with _named_options():
        return StepSetting(
            model=ModelName[model],
            batch=arguments.batch or (GROWTH_BATCH[model] if arguments.growth else defaults["batch"]),
            captions=Captions[arguments.captions or defaults["captions"]],
            local_crops=arguments.local_crops,
            precision=choose_precision(arguments.precision, "gpu" if device == "cuda" else "cpu"),
            device=device,
            threads=arguments.threads,
            compile=arguments.compile,
        )


def _loss(arguments: argparse.Namespace) -> int:
    from kelip_lightning.benchmarks.loss import LossSetting, run_loss_benchmark, write_loss_report
    from kelip_lightning.cli.benchmark_tables import print_loss_report
    from kelip_lightning.losses.config import MatmulPrecision

    sizes = _given(arguments, [*LOSS_SIZES, "chunks"], LOSS_SMOKE)
    with _named_options():
        setting = LossSetting(**sizes, device=_device(arguments.device), precision=MatmulPrecision[arguments.precision])
    costs = run_loss_benchmark(setting, _print_progress)
    print_loss_report(setting, costs, write_loss_report(setting, costs, arguments.output))
    return 0


def _evaluation(arguments: argparse.Namespace) -> int:
    from kelip_lightning.benchmarks.evaluation import (
        EvaluationSetting,
        run_evaluation_benchmark,
        write_evaluation_report,
    )
    from kelip_lightning.cli.benchmark_tables import print_evaluation_report

    sizes = _given(arguments, EVALUATION_SIZES, EVALUATION_SMOKE)
    with _named_options():
        setting = EvaluationSetting(**sizes)
    cost = run_evaluation_benchmark(setting, _print_progress)
    print_evaluation_report(setting, cost, write_evaluation_report(setting, cost, arguments.output))
    return 0 if cost.same_outcomes else 1


def _data(arguments: argparse.Namespace) -> int:
    from kelip_lightning.benchmarks.data import DataSetting, run_data_benchmark, write_data_report
    from kelip_lightning.cli.benchmark_tables import print_data_report

    with _named_options():
        setting = DataSetting(**_given(arguments, ("sizes", "repeats"), DATA_SMOKE))
    found = run_data_benchmark(setting, _print_progress)
    print_data_report(found, write_data_report(setting, found, arguments.output))
    return 0


def _store(arguments: argparse.Namespace) -> int:
    from kelip_lightning.benchmarks.store.benchmark import StoreSetting, run_store_benchmark, write_store_report
    from kelip_lightning.cli.benchmark_tables import print_store_report

    names = [*(name.replace("-", "_") for name in STORE_SIZES), "workers"]
    with _named_options():
        setting = StoreSetting(**_given(arguments, names, STORE_SMOKE))
    rates = run_store_benchmark(setting, _print_progress)
    print_store_report(rates, write_store_report(setting, rates, arguments.output))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from kelip_lightning.benchmarks.run_time import (
        time_new_run,
        time_of_run,
        write_run_report,
        write_small_experiment,
    )
    from kelip_lightning.cli.benchmark_tables import print_run_report
    from kelip_lightning.errors import ConfigError

    what = arguments.what
    if (what is None) is not arguments.smoke:
        raise ConfigError(["give an experiment or a run folder, or --smoke, which trains an experiment of its own"])
    if what is None:
        with tempfile.TemporaryDirectory() as place:
            found = time_new_run(write_small_experiment(Path(place)), arguments.overrides, _print_progress)
    elif what.suffix in (".yaml", ".yml"):
        found = time_new_run(what, arguments.overrides, _print_progress)
    elif arguments.overrides:
        raise ConfigError([f"{arguments.overrides[0]} has no effect on {what}, which has been trained; leave it out"])
    else:
        found = time_of_run(what)
    print_run_report(found, write_run_report(found, arguments.output))
    return 0


def _given(arguments: argparse.Namespace, names: Iterable[str], smoke: Mapping[str, Any]) -> dict[str, Any]:
    """The options given, over those of --smoke."""
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return {**(smoke if arguments.smoke else {}), **given}


def _device(name: str) -> str:
    """Cpu or cuda; ConfigError if there is none."""
    import torch

    from kelip_lightning.distributed.accelerators import AUTO, choose_device

    if name == AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return choose_device(name).type


@contextmanager
def _named_options() -> Iterator[None]:
    """Turns a number out of range into a ConfigError that names the option."""
    from kelip_lightning.errors import ConfigError

    try:
        yield
    except ValueError as error:
        raise ConfigError([f"--{error}"]) from error


def _print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
