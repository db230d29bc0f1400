"""Runs a command so that a user's mistake is one line and exit code 2, never a traceback."""

import difflib
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from cmarr_jax.cli import boundary
from cmarr_jax.cli.arguments import fail
from cmarr_jax.config import leaves
from cmarr_jax.errors import UserError


def run(main: Callable[[], int | None]) -> NoReturn:
    """Parses the flags, calls `main` and exits with the code that it returns, or 0.

    Exits with 2 after a user's mistake in either, and with 130 or 143 after a signal to stop.
    """

    def checked(argv: Sequence[str]) -> None:
        if argv[1:]:
            fail(f"{argv[1]}: not a flag; flags are --NAME=VALUE, see --help")
        sys.exit(main() or 0)

    os.environ["MPLBACKEND"] = "agg"  # commands write files; a notebook's backend is not theirs
    resumable = "the same command resumes from the last checkpoint"
    sys.exit(boundary.run(lambda: app.run(checked, flags_parser=_parse), resumable))


def _parse(argv: Sequence[str]) -> list[str]:
    if {"--help", "-h", "-help"} & set(argv):
        main_module = sys.modules["__main__"]
        print(main_module.__doc__)
        print(flags.FLAGS.main_module_help())
        sys.exit(0)
    given = _config_argument(argv)
    file, _, variant = (given or "").partition(":")
    if given is not None and not os.path.isfile(file):
        fail(f"--config={file}: no such file; the configs are in configs/")
    try:
        return flags.FLAGS(list(argv))
    except Exception as e:  # a config file may raise anything, and absl wraps it
        cause = e
        while inner := cause.__cause__ or (not cause.__suppress_context__ and cause.__context__):
            cause = inner
        if isinstance(cause, UserError):
            fail(f"--config: {cause}")
        if isinstance(cause, AttributeError | KeyError):
            fail(_unknown_field(argv, file, variant))
        fail(str(e).splitlines()[0])


def _config_argument(argv: Sequence[str]) -> str | None:
    for argument, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        if argument.lstrip("-").startswith("config="):
            return argument.split("=", 1)[1]
        if argument in ("-config", "--config"):
            return following
    return None


def _unknown_field(argv: Sequence[str], file: str, variant: str) -> str:
    """The error line about an override of no field: it names the closest field that exists."""
    known = [field for field, _ in leaves(_load(file).get_config(variant or None).to_dict())]
    for argument in argv:
        field = argument.lstrip("-").split("=")[0].removeprefix("noconfig.").removeprefix("config.")
        if argument.lstrip("-").startswith(("config.", "noconfig.")) and field not in known:
            near = [k for k in known if _initials(k) == field]  # "train.lr"
            near += difflib.get_close_matches(field, known, n=1, cutoff=0.5)
            near += [k for k in known if k.split(".")[-1] == field.split(".")[-1]]
            hint = f"did you mean --config.{near[0]}?" if near else "see configs/common.py"
            return f"--config.{field}: no such field; {hint}"
    return f"--config={file}: it names a field that does not exist"


def _initials(field: str) -> str:
    """ "train.learning_rate" -> "train.lr"."""
    parent, _, name = field.rpartition(".")
    return f"{parent}.{''.join(word[0] for word in name.split('_') if word)}"


def config_of(holder: flags.FlagHolder, argument: str) -> ConfigDict:
    """The config that `holder`'s file gives for another argument, with the same overrides.

    Overrides of fields that this config lacks (another system has them) are left out.
    """
    flag = flags.FLAGS[holder.name]
    config = _load(config_flags.get_config_filename(flag).partition(":")[0]).get_config(argument)
    known = {field for field, _ in leaves(config.to_dict())}
    overrides = config_flags.get_override_values(flag)
    overrides.pop("members", None)  # a member has no members
    config.update_from_flattened_dict({k: v for k, v in overrides.items() if k in known})
    return config


def _load(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("config", file)
    assert spec and spec.loader  # a .py file has both
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
