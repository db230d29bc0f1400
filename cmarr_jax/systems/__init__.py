"""The systems by name. To add one: a file with `make`, and its name here."""

import importlib

_NAMES = (
    "cmarr",
    "cmarr_plus",
    "full_modality",
    "augmented",
    "cra",
    "mmin",
    "if_mmin",
    "cif_mmin",
    "dicmor",
    "nmer",
)

SYSTEMS = {name: importlib.import_module(f"{__name__}.{name}").make for name in _NAMES}
