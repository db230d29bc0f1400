"""The console commands of an installed library: modules' `main`s on the command line."""

import sys


def extract() -> int:
    """`cmarr-extract`, see `cmarr_jax.extract`."""
    from cmarr_jax.extract.__main__ import main

    return main(sys.argv[1:])


def importers() -> int:
    """`cmarr-import`, see `cmarr_jax.data.importers`."""
    from cmarr_jax.data.importers.__main__ import main

    return main(sys.argv[1:])


def pack() -> int:
    """`cmarr-pack`, see `cmarr_jax.data.pack`."""
    from cmarr_jax.data.describe import main

    return main(sys.argv[1:])


def predict() -> None:
    """`cmarr-predict`, see `cmarr_jax.predict`."""
    from cmarr_jax.predict import command

    command()
