"""Trains a system on every fold and seed as one sweep, tests it, prints the table.

    python train.py --config configs/iemocap.py

A config NAME reads the pack data/NAME and writes to results/NAME, with an argument to
results/NAME-ARGUMENT; --config.data.pack=PACK and --workdir=DIR name other places. Every field can
be set from here: --config.fold=3, --config.num_seeds=3, --config.model.udcl.weight=0.5, ...;
--help lists them, and --print-config shows what is set, and where. An argument after the config
file picks a system and variants: --config configs/iemocap.py:mmin or :no_udcl. The arguments
table2, table3 and fig4 stand for many, each in a folder of its own below DIR; those that differ
in a loss weight or a rate alone are trained as one program. Started again with the same flags, a
sweep resumes where it stopped, or prints its results if it is done. With --dry-run it only says
what it would do, how large that is and how long it would take. On a TPU slice of several hosts
all run the same command with --distributed; only the first one touches DIR.

Exit codes: 0; 1 = a fault of the program, in one line; 2 = something to mend, in one line; 3 = a
run was stopped because a loss was no longer finite, and the others have their results; 4 =
another process of --distributed is gone, resumable; 130, 143 = stopped, resumable.
"""

import sys

from absl import flags, logging
from ml_collections import config_flags

from cmarr_jax.cli import fields, places
from cmarr_jax.cli import flags as cli
from cmarr_jax.errors import UserError
from cmarr_jax.experiment import run
from cmarr_jax.experiment.table import Table, check_members
from cmarr_jax.results.rows import read_summary
from cmarr_jax.results.summary import summary_table
from cmarr_jax.runtime import exits, preemption
from cmarr_jax.workdir import status

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the results; default: results/NAME[-ARGUMENT]."
)
_PRINT_CONFIG = flags.DEFINE_boolean(
    "print-config", False, "Print every field: its value, where it was set, what it means."
)
_DRY_RUN = flags.DEFINE_boolean(
    "dry-run", False, "Say what would be done and how long; do nothing."
)
_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", False, "Train together with other processes of the same command."
)


def main() -> int:
    """Returns the exit code."""
    table = make_table()
    if _PRINT_CONFIG.value:
        print_config(table)
        return 0
    data, folder = table.workdir.config.data, table.workdir.folder
    print(f"pack {data.pack or data.data_dir}; work directory {folder}", file=sys.stderr)
    logging.set_verbosity(logging.FATAL)  # JAX tells how it connects, orbax its errors twice
    if _DRY_RUN.value and _DISTRIBUTED.value:
        raise UserError("--distributed: wanted without --dry-run, which measures one process")
    if _DRY_RUN.value:
        return dry_run(table)
    if not _DISTRIBUTED.value:
        return lead(table)
    from cmarr_jax.runtime import processes

    with processes.joined():
        code = lead(table) if processes.is_first() else follow(table)
        if processes.is_first():
            processes.tell([])
        return code


def make_table() -> Table:
    """What the flags ask for; refuses what is wrong with a config whatever the corpus is."""
    config = _CONFIG.value
    if config is None:
        raise UserError("--config: missing; name a file of configs/, such as configs/iemocap.py")
    named = cli.name_of(_CONFIG)
    check_members(config.members)
    members = {name: cli.config_of(_CONFIG, argument) for name, argument in config.members}
    for name, argument in config.members:
        if members[name].members:
            raise UserError(f"{argument!r}: a table is no member of another; name its members")
    for each in members.values() or (config,):
        run.check(each)  # all of them now, not when their turn comes
    for each in (config, *members.values()):
        places.set_pack(each, named.partition(":")[0], wanted=not _PRINT_CONFIG.value)
    return Table(_WORKDIR.value or places.workdir(named), config, members)


def print_config(table: Table) -> None:
    """Prints every field of the config, where it was set, and the places."""
    named, config = cli.name_of(_CONFIG), table.workdir.config
    print(f"--config={named} --workdir={table.workdir.folder}\n")
    print(fields.table(config, fields.origins(named, config, cli.overrides(_CONFIG))))


def lead(table: Table) -> int:
    """Trains what is missing and prints all results; returns the exit code."""
    folder = table.workdir.folder
    run.finish(table, preemption.listen())
    stopped = status.stopped_runs(folder)
    if not stopped or status.has_results(folder):
        print(summary_table(read_summary(folder)))
    return exits.INCOMPLETE if stopped else 0


def follow(table: Table) -> int:
    """Trains with the first process whichever sweeps it says; returns the exit code."""
    from cmarr_jax.runtime import processes

    leave = preemption.listen()
    while folders := processes.tell():
        group = [each for each in table.members if each.folder in folders]
        run.train_group(group, table.teachers, leave)
    return 0


def dry_run(table: Table) -> int:
    """Prints what would be done with each sweep; returns the exit code."""
    from cmarr_jax.cli.progress import Progress
    from cmarr_jax.experiment import dry_run
    from cmarr_jax.experiment.groups import alike
    from cmarr_jax.experiment.prepare import prepare
    from cmarr_jax.runtime.devices import prepare_to_compile

    prepare_to_compile()
    workdirs = table.members
    while workdirs:
        group = alike(workdirs)
        with Progress() as progress:
            experiment = prepare([each.config for each in group], progress, table.teachers)
            group = group[: len(experiment.sweeps)]
            progress.measure()
            plans = dry_run.measure(experiment)
        print(dry_run.describe(plans, experiment, [each.folder for each in group]))
        workdirs = [each for each in workdirs if each not in group]
    return 0


if __name__ == "__main__":
    cli.run(main, reads_config=True)
