"""`kelip show-config FILE`: the resolved experiment, and its changes."""

import argparse

from kelip_lightning.cli.verb import add_experiment_arguments, load_any_experiment, verb


@verb(add_experiment_arguments)
def show_config(arguments: argparse.Namespace) -> int:
    """Print the resolved experiment and its changes.

    The resolved experiment as YAML that loads to the same experiment; as comments, the changes against the files that
    it extends. Data files and devices need not exist. kelip plan FILE prints the values derived from it.

      kelip show-config experiments/emoji/pretrain.yaml seed=1 > my_experiment.yaml
    """
    loaded = load_any_experiment(arguments.file, arguments.overrides, on_this_machine=False)
    print(f"# {type(loaded.experiment).__name__} from {arguments.file}")
    print(loaded.resolved)
    print("# changes against what the file extends, or against the file itself:")
    for line in loaded.base_diff or ["none"]:
        print(f"#   {line}")
    return 0
