"""What the training loop knows of a system: its stages, each a tuple of pure functions."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from cmarr_jax import losses
from cmarr_jax.systems.precision import FLOAT32, Precision

Params: TypeAlias = Any  # a tree of arrays: linen variables, {"params": {module: ...}}
Encoded: TypeAlias = Any  # a tree of arrays; each system has its own


class Batch(NamedTuple):
    """B utterances as a system sees them; features are normalised."""

    features: dict[str, jax.Array]  # modality -> [B, T, D_m], float32 or bfloat16
    mask: jax.Array  # [B, T] bool; False = padding
    present: jax.Array  # [B, M] bool; False = the corpus lacks this modality here
    labels: jax.Array  # [B] int32
    weights: jax.Array  # [B], of the classification loss
    # As the stage before sees them, where it has encoders of its own; None = the same
    taught: dict[str, jax.Array] | None = None

    def as_taught(self) -> "Batch":
        """The same utterances as the stage before sees them."""
        return self if self.taught is None else self._replace(features=self.taught)


class Output(NamedTuple):
    """What a system predicts for a batch under one availability.

    Attributes:
      logits: `[B, C]`.
      recovered: `[M, B, T, D]`, finite everywhere, but meaningful only where a modality is
        missing; None if the system recovers nothing.
      target: `[M, B, T, D]`, what `recovered` should be.
      variance: `[M, B]`, of each modality's embedding; None if it has none.
    """

    logits: jax.Array
    recovered: jax.Array | None
    target: jax.Array | None
    variance: jax.Array | None = None


def kernels(params: Params) -> Params:
    """A tree like `params` (arrays or their shapes): True where a leaf's name contains "kernel".

    All matrices have such names, as in linen's own layers: "kernel_0", "recurrent_kernel".
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: "kernel" in path[-1].key, params)


class Encoder(NamedTuple):
    """What stands before a system for one modality, and is trained with it.

    Attributes:
      modality: whose features it reads.
      dim: width of what it gives.
      params: its parameters as they were published, {module: ...} on the host.
      encode: (params, x `[B, L, D]`, mask `[B, L]`, key) -> `[B, L, dim]` float32; `key`, of its
        dropout, is None outside of training.
      depths: a tree like `params`, how many layers lie between a leaf and the system.
      facts: all that an exported model needs to make it again.
      positions: rows after which an utterance is cut, that is read at its own length; 0 = it is
        pooled to the system's before.
      learning_rate: the peak of its own; None = the system's.
      weight_decay: of its own.
      warmup: of its own, a share of all steps.
      layer_decay: factor of the learning rate from one layer to the one below it.
      batch_axis: name of the mapped axis that the batch is cut over; None = it is not.
    """

    modality: str
    dim: int
    params: Params
    encode: Callable[[Params, jax.Array, jax.Array, jax.Array | None], jax.Array]
    depths: Params
    facts: Mapping[str, Any]
    positions: int = 0
    learning_rate: float | None = None
    weight_decay: float = 0.0
    warmup: float = 0.0
    layer_decay: float = 1.0
    batch_axis: str | None = None


class Stage(NamedTuple):
    """Pure functions; `available` is `[B, M]` bool and never exceeds `batch.present`.

    Attributes:
      name: of the stage, as it is shown, logged and saved.
      init: (key, batch, before) -> params. `before` holds the chosen parameters of the stage
        before, None in the first stage; a student copies what it needs of its teacher.
      loss: (params, batch, available, key) -> {name: scalar term}, not weighted yet.
      encode: (params, batch) -> all that does not depend on the availability.
      predict: (params, encoded, batch.mask, available) -> Output. The values of a modality that is
        not available must not reach it.
      weights: name of a loss term -> its weight; 1 where there is none. One program trains runs
        that differ in these numbers alone, see `objective`.
      complete: whether it trains on complete data, not under simulated missing patterns.
      frozen: names of modules whose parameters stay as `init` made them.
      depends: of an earlier stage, the names of the model's config fields that its result depends
        on; runs that agree on them share the result.
      decayed: params -> a tree like it, True for each leaf that weight decay acts on.
      loss_on_cpu: the same loss, computed in the way that is fastest on a CPU; None = in the same
        way as on an accelerator. See `for_cpu`.
      precision: in what its functions compute; the features that they are given are of its dtype.
      encoders: what stands before it, see `cmarr_jax.training.encoders`; it does not know.
    """

    name: str
    init: Callable[[jax.Array, Batch, Params], Params]
    loss: Callable[[Params, Batch, jax.Array, jax.Array], dict[str, jax.Array]]
    encode: Callable[[Params, Batch], Encoded]
    predict: Callable[[Params, Encoded, jax.Array, jax.Array], Output]
    weights: Mapping[str, float] = MappingProxyType({})
    complete: bool = False
    frozen: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    decayed: Callable[[Params], Params] = kernels
    loss_on_cpu: Callable[[Params, Batch, jax.Array, jax.Array], dict[str, jax.Array]] | None = None
    precision: Precision = FLOAT32
    encoders: tuple[Encoder, ...] = ()

    @property
    def encoded(self) -> tuple[str, ...]:
        """The modalities that an encoder stands before."""
        return tuple(encoder.modality for encoder in self.encoders)


class System(NamedTuple):
    """A system is its stages in order; the last one is tested.

    Validation chooses the last stage's epoch under all conditions, and the epoch of an earlier
    stage (a teacher) on complete data.
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


def for_cpu(stage: Stage) -> Stage:
    """The stage as a CPU trains it fastest. The trainer knows the device; no system asks for it."""
    return stage._replace(loss=stage.loss_on_cpu or stage.loss)


def gather(x: jax.Array, axis: int = 0, *, batch_axis: str | None) -> jax.Array:
    """All devices' shards of `x`, joined along `axis`, over which the batch is cut; `x` if uncut.

    An all_gather inside a program (between hosts' arrays it is `processes.gather_processes`). A
    loss that is no plain mean over the batch reads its arrays through it: then D devices compute
    what one computes.
    """
    return jax.lax.all_gather(x, batch_axis, axis=axis, tiled=True) if batch_axis else x


def whole_squared_error(
    x: jax.Array, y: jax.Array, batch: Batch, batch_axis: str | None
) -> jax.Array:
    """Mean of (x - y)^2 `[B, M, W]` over the modalities that are present in the whole batch.

    What an utterance lacks has no truth to learn from.
    """
    here = batch.present[:, :, None].astype(jnp.float32)
    whole_present = gather(here, batch_axis=batch_axis)
    squares = jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32))
    # A factor that is exactly 1 for complete data.
    return jnp.mean(squares * here) * (whole_present.size / jnp.maximum(whole_present.sum(), 1))


def whole_cross_entropy(logits: jax.Array, batch: Batch, batch_axis: str | None) -> jax.Array:
    """L_cls over the whole batch, cut over devices or not; `logits` `[B, C]` of this device."""
    arrays = (logits, batch.labels, batch.weights)
    return losses.cross_entropy(*(gather(x, batch_axis=batch_axis) for x in arrays))
