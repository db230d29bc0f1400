"""What the loop knows of a system: a value of four pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any
Encoded = Any


class Batch(NamedTuple):
    """B utterances as a system sees them; features are normalised."""

    features: dict[str, jax.Array]  # modality -> [B, T, D_m]
    mask: jax.Array  # [B, T] bool; False = padding
    present: jax.Array  # [B, M] bool; False = the corpus lacks this modality here
    labels: jax.Array  # [B] int32
    weights: jax.Array  # [B], of the classification loss


class Prediction(NamedTuple):
    """What a system says of a batch under one availability."""

    logits: jax.Array  # [B, C]
    recovered: jax.Array | None  # [M, B, T, D]; None if the system recovers nothing
    target: jax.Array | None  # [M, B, T, D], what `recovered` should be


class System(NamedTuple):
    """Pure functions; `available` is `[B, M]` bool and never exceeds `batch.present`.

    Attributes:
      init: (key, batch) -> params.
      loss: (params, batch, available, key) -> (scalar, name -> scalar term).
      encode: (params, batch) -> whatever does not depend on the availability.
      predict: (params, encoded, batch.mask, available) -> Prediction. The values of a
        modality that is not available must not reach it.
    """

    init: Callable[[jax.Array, Batch], Params]
    loss: Callable[[Params, Batch, jax.Array, jax.Array], tuple[jax.Array, dict]]
    encode: Callable[[Params, Batch], Encoded]
    predict: Callable[[Params, Encoded, jax.Array, jax.Array], Prediction]
