"""The systems by name. To add one: a file with `make`, and a line here."""

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

SYSTEMS = {
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
