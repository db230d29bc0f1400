"""The scripts as console commands: `cmarr-train` does what `python train.py` does in a checkout.

In a checkout, train.py, evaluate.py, sweep.py and configs/ lie beside this package. Installed, they
lie in its folder `programs`, so that no module named `train` or `configs` meets those of other
projects. Each runs as a script does in Python: imports look in its own folder first.
"""

import os
import re
import runpy
import sys

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


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
    installed = os.path.join(_PACKAGE, "programs")
    folder = installed if os.path.isdir(installed) else os.path.dirname(_PACKAGE)
    sys.argv[1:] = [_find_config(folder, argument) for argument in sys.argv[1:]]
    sys.path.insert(0, folder)
    runpy.run_path(os.path.join(folder, script), run_name="__main__")


def _find_config(folder: str, argument: str) -> str:
    """Makes `--config=configs/x.py:variant` name the file in `folder` if there is none here."""
    if not (found := re.match(r"(-[^=]*=)?(configs/[^:]+)", argument)):
        return argument
    flag, file = found.groups(default="")
    installed = os.path.join(folder, file)
    if os.path.exists(file) or not os.path.isfile(installed):
        return argument
    return flag + installed + argument[found.end() :]
