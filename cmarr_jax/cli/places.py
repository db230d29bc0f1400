"""Where a command reads and writes if no flag says so: data/NAME and results/NAME[-ARGUMENT]."""

import os

from ml_collections import ConfigDict

from cmarr_jax.errors import UserError

_CORPORA = (
    "iemocap",
    "msp_improv",
    "meld",
    "cremad",
    "ravdess",
)  # that `cmarr_jax.extract` makes packs of


def workdir(config: str) -> str:
    """The work directory of FILE[:ARGUMENT], as --config names it."""
    file, _, argument = config.partition(":")
    name = _stem(file) + (f"-{argument}" if argument else "")
    return os.path.join("results", name.replace(os.sep, "_"))


def set_pack(config: ConfigDict, file: str, wanted: bool = True) -> None:
    """Points a config that names no corpus to the pack of its file's name.

    Args:
      config: of `configs/`; locked or not.
      file: that it came from.
      wanted: whether the pack must be there.

    Raises:
      UserError: there is no such pack; says how to make one.
    """
    if config.data.pack or config.data.data_dir:
        return
    pack = os.path.join("data", _stem(file))
    if wanted and not os.path.exists(pack):
        raise UserError(
            f"{pack}: no such pack; make it with `{_command(pack)}` or, of features that you "
            f"have, `python -m cmarr_jax.data.importers FORMAT ... --out {pack}`; or name "
            "another by --config.data.pack=PACK"
        )
    with config.unlocked():
        config.data.pack = pack


def _command(pack: str) -> str:
    name = os.path.basename(pack)
    if name in _CORPORA:
        return f"python -m cmarr_jax.extract {name} --root RELEASE --out {pack}"
    return f"python -m cmarr_jax.data.demo {pack}"


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]
