"""Emotion recognition from text, speech and video when some of them are missing.

    import cmarr_jax

    ours = cmarr_jax.train("cmarr", "PACK", "results/cmarr", num_seeds=3)
    theirs = cmarr_jax.train("mmin", "PACK", "results/mmin", num_seeds=3)
    print(ours.compare(theirs))

This is all that other programs may rely on; docs/python.md says more. The names are imported when
they are used, so that `import cmarr_jax` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmarr_jax.data import pack
    from cmarr_jax.errors import UserError
    from cmarr_jax.experiment.run import train
    from cmarr_jax.predictor import Predictor
    from cmarr_jax.results.notebook import Results, load

__version__ = "0.1.0"

# name -> where it is, and what it is called there; "" = the module itself.
_PLACES = {
    "train": ("cmarr_jax.experiment.run", "train"),
    "load": ("cmarr_jax.results.notebook", "load"),
    "Results": ("cmarr_jax.results.notebook", "Results"),
    "Predictor": ("cmarr_jax.predictor", "Predictor"),
    "UserError": ("cmarr_jax.errors", "UserError"),
    "pack": ("cmarr_jax.data.pack", ""),
}
__all__ = ["Predictor", "Results", "UserError", "load", "pack", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'cmarr_jax' has no attribute {name!r}")
    place, inner = _PLACES[name]
    module = import_module(place)
    globals()[name] = found = getattr(module, inner) if inner else module
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
