"""`kelip show-config FILE`: what an experiment says, what follows from it, what it changes."""

import argparse

from kelip_lightning.cli.training import add_experiment_arguments, check_syntax

NAME = "show-config"
HELP = "print an experiment with all its values, its plan, and what it changes"
DESCRIPTION = """\
The resolved experiment as YAML that can be run again; the plan and the changes against the files that it
extends follow as comments. Files and devices need not be there.

  kelip show-config experiments/emoji/pretrain.yaml seed=1 > my_experiment.yaml
"""

add_arguments = add_experiment_arguments


def run(arguments: argparse.Namespace) -> int:
    """Check the experiment and print it."""
    check_syntax(arguments.file)
    import yaml

    from data_modules.errors import DataError
    from kelip_lightning.config.experiment import SCHEMAS
    from kelip_lightning.config.load import find_schema, load_experiment
    from kelip_lightning.planning.stage_plan import count_samples, make_plan, open_stages

    schema = find_schema(arguments.file, SCHEMAS)
    loaded = load_experiment(arguments.file, arguments.overrides, schema, on_this_machine=False)
    try:
        samples = count_samples(loaded.experiment, open_stages(loaded.experiment))
    except DataError:
        samples = {}  # the data is elsewhere: epochs stay open
    plan = make_plan(loaded.experiment, samples).to_dict()
    print(f"# {schema.__name__} from {arguments.file}")
    print(loaded.resolved)
    print(_commented("plan", yaml.safe_dump(plan, sort_keys=False, allow_unicode=True).splitlines()))
    changes = loaded.base_diff or ["none"]
    print(_commented("changes against what the file extends, or against the file itself", changes))
    return 0


def _commented(title: str, lines: list[str]) -> str:
    return "\n".join([f"# {title}:", *(f"#   {line}" for line in lines), ""])
