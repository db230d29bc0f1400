"""The baseline's network trained on simulated missing modalities: no recovery, no teacher.

MMIN's repository calls such a system data augmentation. A method is worth its effort only if it
clearly beats this one.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from cmarr_jax.systems import full_modality
from cmarr_jax.systems.system import System


def make(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> System:
    """The augmented baseline as a system; arguments and errors as in `systems.cmarr.make`."""
    stage = full_modality.make_stage(
        config, modalities, num_classes, batch_axis, dtype, complete=False
    )
    return System((stage,))
