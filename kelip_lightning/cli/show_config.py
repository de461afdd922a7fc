"""`kelip show-config FILE`: the resolved experiment, its derived values, and its changes."""

import argparse

from kelip_lightning.cli.plan import samples_per_epoch
from kelip_lightning.cli.verb import add_experiment_arguments, load_any_experiment, verb


@verb(add_experiment_arguments)
def show_config(arguments: argparse.Namespace) -> int:
    """Print the resolved experiment, its derived values, and its changes.

    The resolved experiment as YAML that loads to the same experiment; as comments, the derived values and the
    changes against the files that it extends. Data files and devices need not exist.

      kelip show-config experiments/emoji/pretrain.yaml seed=1 > my_experiment.yaml
    """
    loaded = load_any_experiment(arguments.file, arguments.overrides, on_this_machine=False)
    import yaml

    from kelip_lightning.planning.stage_plan import make_plan

    plan = make_plan(loaded.experiment, samples_per_epoch(loaded.experiment)).to_dict()
    print(f"# {type(loaded.experiment).__name__} from {arguments.file}")
    print(loaded.resolved)
    print(_commented("plan", yaml.safe_dump(plan, sort_keys=False, allow_unicode=True).splitlines()))
    changes = loaded.base_diff or ["none"]
    print(_commented("changes against what the file extends, or against the file itself", changes))
    return 0


def _commented(title: str, lines: list[str]) -> str:
    return "\n".join([f"# {title}:", *(f"#   {line}" for line in lines), ""])
