"""The systems by name. To add one: a file with `make`, its import and its entry here."""

from collections.abc import Callable

from cmarr_jax.systems import (
    augmented,
    cif_mmin,
    cmarr,
    cmarr_plus,
    cra,
    dicmor,
    full_modality,
    if_mmin,
    mmin,
    nmer,
)
from cmarr_jax.systems.system import System

# name -> function (config, modalities, num_classes, batch_axis=None) -> system; see `cmarr.make`.
SYSTEMS: dict[str, Callable[..., System]] = {
    "cmarr": cmarr.make,
    "cmarr_plus": cmarr_plus.make,
    "full_modality": full_modality.make,
    "augmented": augmented.make,
    "cra": cra.make,
    "mmin": mmin.make,
    "if_mmin": if_mmin.make,
    "cif_mmin": cif_mmin.make,
    "dicmor": dicmor.make,
    "nmer": nmer.make,
}
