"""The scripts as console commands: `cmarr-train` does what `python train.py` does in a checkout.

Each runs as a script does in Python: imports look in its own folder first.
"""

import os
import re
import runpy
import sys

from cmarr_jax.cli import config_files


def train() -> None:
    """Runs train.py."""
    _run("train.py")


def evaluate() -> None:
    """Runs evaluate.py."""
    _run("evaluate.py")


def sweep() -> None:
    """Runs sweep.py."""
    _run("sweep.py")


def _run(script: str) -> None:
    sys.argv[1:] = [_find_config(argument) for argument in sys.argv[1:]]
    sys.path.insert(0, config_files.FOLDER)
    runpy.run_path(os.path.join(config_files.FOLDER, script), run_name="__main__")


def _find_config(argument: str) -> str:
    """Makes `--config=configs/x.py:variant` name the project's own file if there is none here."""
    if not (found := re.match(r"(-[^=]*=)?(configs/[^:]+)", argument)):
        return argument
    flag, file = found.groups(default="")
    return flag + config_files.find(file) + argument[found.end() :]
