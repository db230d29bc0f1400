"""What the loop knows of a system: stages, each a value of four pure functions."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from cmarr_jax.errors import UserError

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
    recovered: jax.Array | None  # [M, B, T, D]; None if the system recovers nothing. Where a
    # modality is not missing it means nothing, but is finite
    target: jax.Array | None  # [M, B, T, D], what `recovered` should be
    variance: jax.Array | None = None  # [M, B], of each modality's embedding; None if it has none


def kernels(params: Params) -> Any:
    """A tree of bools like `params`: True for the kernels of products, as their names say."""
    return jax.tree_util.tree_map_with_path(lambda path, _: "kernel" in str(path[-1].key), params)


class Stage(NamedTuple):
    """Pure functions; `available` is `[B, M]` bool and never exceeds `batch.present`.

    Attributes:
      name: of the stage, in what is shown, logged and saved.
      init: (key, batch, before) -> params. `before` holds the parameters that were chosen in
        the stage before, None in the first; what a student needs of its teacher, it copies.
      loss: (params, batch, available, key) -> name -> scalar term, not weighted yet.
      encode: (params, batch) -> whatever does not depend on the availability.
      predict: (params, encoded, batch.mask, available) -> Prediction. The values of a
        modality that is not available must not reach it.
      weights: of the loss' terms, by name; 1 where there is none. Runs that differ in nothing
        else are trained in one program, see `objective`.
      complete: trained on complete data, not under the simulated missing patterns.
      frozen: names of modules whose parameters stay as `init` made them.
      decayed: params (or their shapes) -> tree of bools, True where weight decay acts.
      depends: names of the model's config fields that an earlier stage depends on; runs that
        agree on them share its result.
    """

    name: str
    init: Callable[[jax.Array, Batch, Params], Params]
    loss: Callable[[Params, Batch, jax.Array, jax.Array], dict[str, jax.Array]]
    encode: Callable[[Params, Batch], Encoded]
    predict: Callable[[Params, Encoded, jax.Array, jax.Array], Prediction]
    weights: Mapping[str, float] = MappingProxyType({})
    complete: bool = False
    frozen: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    decayed: Callable[[Params], Any] = kernels


class System(NamedTuple):
    """A system is its stages in order; the last one is what is tested.

    The last stage's epoch is chosen by validation under all conditions, an earlier one's (a
    teacher's) by validation on complete data.
    """

    stages: tuple[Stage, ...]


def objective(stage: Stage) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """What a stage minimises: (params, batch, available, key, weights) -> (scalar, its terms).

    `weights` are numbers or traced scalars; by default the stage's own.
    """

    def total(params, batch, available, key, weights=stage.weights):
        terms = stage.loss(params, batch, available, key)
        return sum(weights.get(name, 1.0) * term for name, term in terms.items()), terms

    return total


def check_faithful_to(config: Any) -> None:
    """Refuses a model config whose `faithful_to` is neither "code" nor "paper"."""
    if config.faithful_to not in ("code", "paper"):
        raise UserError(f"--config.model.faithful_to={config.faithful_to}: wanted code or paper")


def gather(x: jax.Array, axis: int = 0, *, batch_axis: str | None) -> jax.Array:
    """The whole batch's `x` where the batch, its dimension `axis`, is cut over devices.

    A loss that is no plain mean over the batch must read it so: then D devices compute what one
    computes.
    """
    return jax.lax.all_gather(x, batch_axis, axis=axis, tiled=True) if batch_axis else x
