"""Finds the files of configs/ by name, from any folder, and runs them as train.py does.

In a checkout they lie beside the package. Installed, they lie in its folder `programs`, with
train.py, so that no module named `configs` meets those of other projects.
"""

import contextlib
import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib import util
from typing import Any

from ml_collections import ConfigDict

from cmarr_jax.config import leaves
from cmarr_jax.errors import UserError

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_INSTALLED = os.path.join(_PACKAGE, "programs")
FOLDER = _INSTALLED if os.path.isdir(_INSTALLED) else os.path.dirname(_PACKAGE)  # of train.py

_DEFAULT = os.path.join(FOLDER, "configs", "iemocap.py")


def find(file: str) -> str:
    """`file` if it exists, else the project's own of that name, such as "configs/iemocap.py"."""
    own = os.path.join(FOLDER, file)
    is_own = file.startswith("configs/") and os.path.isfile(own)
    return own if is_own and not os.path.exists(file) else file


def get(name: str) -> ConfigDict:
    """The config that a name stands for.

    Args:
      name: "FILE.py", "FILE.py:ARGUMENT", or an argument alone, such as "mmin", which goes to this
        project's configs/iemocap.py.

    Raises:
      UserError: there is no such file, or it raises an error, whose line is named.
    """
    given = re.fullmatch(r"(.*?\.py)(?::(.*))?", name, re.DOTALL)
    file, argument = given.groups() if given else (_DEFAULT, name)
    file = find(file)
    if not os.path.isfile(file):
        raise UserError(f"{file}: no such file; the configs are in configs/")
    spec = util.spec_from_file_location("config", file)
    assert spec and spec.loader  # a .py file has both
    module = util.module_from_spec(spec)
    with _own_configs():
        try:
            spec.loader.exec_module(module)
            if not callable(getattr(module, "get_config", None)):
                raise UserError(f"{file}:1: defines no get_config(); see configs/demo.py")
            config = module.get_config(argument) if argument else module.get_config()
        except UserError:
            raise
        except (Exception, SystemExit) as e:  # whoever wrote the file may raise anything
            raise UserError(f"{_place(e, file)}: {type(e).__name__}: {_message(e)}") from None
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        line = getattr(getattr(module.get_config, "__code__", None), "co_firstlineno", 1)
        raise UserError(f"{file}:{line}: get_config returns a {kind}; wanted a ConfigDict")
    return config


def set_fields(config: ConfigDict, fields: Mapping[str, Any]) -> None:
    """Sets fields: "section.field" -> value, or section -> {field: value}.

    Raises:
      UserError: no such field, or a value of another type.
    """
    for field, value in leaves(dict(fields)):
        known = dict(leaves(config.to_dict()))
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1, cutoff=0.5)
            near += [k for k in known if k.split(".")[-1] == field.split(".")[-1]]
            hint = f"did you mean {near[0]}?" if near else "see configs/common.py"
            raise UserError(f"{field}={value!r}: no such field; {hint}")
        if isinstance(known[field], tuple) and isinstance(value, list):
            value = tuple(value)
        try:
            config.update_from_flattened_dict({field: value})
        except (TypeError, ValueError):
            kind = type(known[field]).__name__
            raise UserError(f"{field}={value!r}: wanted a value of type {kind}") from None


@contextlib.contextmanager
def _own_configs() -> Iterator[None]:
    """A context in which `import configs` finds this project's, not another's of that name."""

    def loaded() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] == "configs"]

    own = os.path.join(FOLDER, "configs")
    is_own = own in getattr(sys.modules.get("configs"), "__path__", ())
    others = {} if is_own else {name: sys.modules.pop(name) for name in loaded()}
    sys.path.insert(0, FOLDER)
    try:
        yield
    finally:
        sys.path.remove(FOLDER)
        for name in loaded() if others else ():
            del sys.modules[name]
        sys.modules.update(others)


def _place(error: BaseException, file: str) -> str:
    """FILE:LINE, the last line of `file` that the error came through."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    if isinstance(error, SyntaxError) and error.filename == file:
        lines.append(error.lineno)
    return f"{file}:{lines[-1]}" if lines else file


def _message(error: BaseException) -> str:
    told = error.msg if isinstance(error, SyntaxError) else error.args[0] if error.args else ""
    return " ".join(str(told).split())
