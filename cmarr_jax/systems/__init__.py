"""The systems by name. To add one: a file with `make`, its import and its entry here."""

import inspect
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from ml_collections import ConfigDict

from cmarr_jax.errors import UserError
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
from cmarr_jax.systems.precision import FLOAT32, Precision
from cmarr_jax.systems.system import System

# name -> function (config, modalities, num_classes, batch_axis=None, dtype=float32) -> system; see
# `cmarr.make`.
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


def make(
    name: str,
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
    precision: Precision = FLOAT32,
) -> System:
    """The system `name` in a precision; the other arguments and errors as in `cmarr.make`.

    A system whose `make` takes no `dtype` computes in float32 alone.
    """
    given: tuple = (config, modalities, num_classes, batch_axis)
    if precision.dtype != jnp.float32:
        if "dtype" not in inspect.signature(SYSTEMS[name]).parameters:
            raise UserError(
                f"--config.precision={precision.name}: the make of {name} takes no dtype; wanted "
                "float32"
            )
        given += (precision.dtype,)
    made = SYSTEMS[name](*given)
    return System(tuple(stage._replace(precision=precision) for stage in made.stages))
