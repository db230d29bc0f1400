"""Runs a command so that a user's mistake is one line and exit code 2, never a traceback."""

import difflib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from cmarr_jax.cli import boundary, config_files, fields
from cmarr_jax.cli.arguments import fail
from cmarr_jax.config import leaves
from cmarr_jax.errors import UserError


def run(main: Callable[[], int | None], reads_config: bool = False) -> NoReturn:
    """Parses the flags, calls `main`, which may say the exit code, and exits with it.

    Exits with 2 on a mistake in either, and with 130 or 143 when told to stop.

    Args:
      main: the command.
      reads_config: whether its flag --config reads a file of fields, which --help then lists.
    """

    def checked(argv: Sequence[str]) -> None:
        if argv[1:]:
            fail(f"{argv[1]}: not a flag; flags are --NAME=VALUE, see --help")
        sys.exit(main() or 0)

    def parse(argv: Sequence[str]) -> list[str]:
        return _parse(argv, reads_config)

    os.environ["MPLBACKEND"] = "agg"  # commands write files; a notebook's backend is not theirs
    resumable = "the same command resumes from the last checkpoint"
    sys.exit(boundary.run(lambda: app.run(checked, flags_parser=parse), resumable))


def _parse(argv: Sequence[str], reads_config: bool) -> list[str]:
    given = _config_argument(argv)
    if given is not None:
        file = given.partition(":")[0]
        if not os.path.isfile(file):
            fail(f"--config={file}: no such file; the configs are in configs/")
        if not file.endswith(".py"):
            fail(
                f"--config={file}: wanted a Python file with get_config(), such as configs/demo.py"
            )
    if {"--help", "-h", "-help"} & set(argv):
        print(sys.modules["__main__"].__doc__)
        print(flags.FLAGS.main_module_help())
        if reads_config:
            print("\nFields of a config, --config.FIELD=VALUE, with their defaults:\n")
            print(fields.table(config_files.get(given or "")))
        sys.exit(0)
    config = None
    if reads_config and given is not None:
        try:
            config = config_files.get(given)
            fields.check(config, file)
        except UserError as e:
            fail(f"--config: {e}")
    try:
        return flags.FLAGS(list(argv))
    except Exception as e:  # absl wraps whatever is wrong with a flag's value
        cause = e
        while inner := cause.__cause__ or (not cause.__suppress_context__ and cause.__context__):
            cause = inner
        if isinstance(cause, AttributeError | KeyError) and config is not None:
            fail(_unknown_field(argv, given or "", config))
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        fail(lines[0] if lines else type(e).__name__)


def _config_argument(argv: Sequence[str]) -> str | None:
    for argument, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        if argument.lstrip("-").startswith("config="):
            return argument.split("=", 1)[1]
        if argument in ("-config", "--config"):
            return following
    return None


def _unknown_field(argv: Sequence[str], given: str, config: ConfigDict) -> str:
    """Names the override at fault and the closest field that exists."""
    known = [field for field, _ in leaves(config.to_dict())]
    for argument in argv:
        field = argument.lstrip("-").split("=")[0].removeprefix("noconfig.").removeprefix("config.")
        if argument.lstrip("-").startswith(("config.", "noconfig.")) and field not in known:
            near = [k for k in known if _initials(k) == field]  # "train.lr"
            near += difflib.get_close_matches(field, known, n=1, cutoff=0.5)
            near += [k for k in known if k.split(".")[-1] == field.split(".")[-1]]
            hint = f"did you mean --config.{near[0]}?" if near else "see configs/common.py"
            return f"--config.{field}: no such field; {hint}"
    return f"--config={given}: it names a field that does not exist"


def _initials(field: str) -> str:
    """ "train.learning_rate" -> "train.lr"."""
    parent, _, name = field.rpartition(".")
    return f"{parent}.{''.join(word[0] for word in name.split('_') if word)}"


def name_of(holder: flags.FlagHolder) -> str:
    """FILE[:ARGUMENT] that a config flag was given."""
    return config_flags.get_config_filename(flags.FLAGS[holder.name])


def overrides(holder: flags.FlagHolder) -> dict[str, Any]:
    """Field -> value of those that the command line has set."""
    return dict(config_flags.get_override_values(flags.FLAGS[holder.name]))


def config_of(holder: flags.FlagHolder, argument: str) -> ConfigDict:
    """The config that `holder`'s file gives for another argument, with the same overrides.

    Overrides of fields that this config lacks (another system has them) are left out.
    """
    file = name_of(holder).partition(":")[0]
    config = config_files.get(f"{file}:{argument}" if argument else file)
    known = {field for field, _ in leaves(config.to_dict())}
    set_here = overrides(holder)
    set_here.pop("members", None)  # a member has none of its own
    config.update_from_flattened_dict({k: v for k, v in set_here.items() if k in known})
    return config
