"""The baseline's network trained on simulated missing modalities: no recovery, no teacher.

MMIN's repository calls the like of it data augmentation. A method that does not clearly beat it
has not earned its machinery.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from cmarr_jax.systems import full_modality
from cmarr_jax.systems.system import System


def make(
    config: ConfigDict, modalities: Sequence[str], num_classes: int, batch_axis: str | None = None
) -> System:
    """The augmented baseline as a system; arguments and errors as of `systems.cmarr.make`."""
    stage = full_modality.make_stage(config, modalities, num_classes, batch_axis, complete=False)
    return System((stage,))
