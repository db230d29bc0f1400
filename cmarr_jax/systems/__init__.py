"""The systems by name. To add one: a file that ends in `make`, and a line here."""

from cmarr_jax.systems import cmarr

SYSTEMS = {
    "cmarr": cmarr.make,
}
