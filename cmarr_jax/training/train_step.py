"""One run's training epoch, as pure functions of any system's stage.

A run is one fold with one seed. Everything random in a run follows from its key and the step, so
that its result does not depend on the runs beside it.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Generic, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from cmarr_jax.data import missing
from cmarr_jax.systems.system import Batch, Stage, objective
from cmarr_jax.training import encoders, prng
from cmarr_jax.training.normalise import A, Statistics, normalise
from cmarr_jax.training.vector import Vector


class Arrays(NamedTuple, Generic[A]):
    """The whole corpus, or n of its utterances, shared by all runs."""

    features: dict[str, A]  # modality -> [n, T, D_m]
    mask: A  # [n, T] bool
    present: A  # [n, M] bool
    held: A | None = None  # [n] int32, which of the corpus; None = all, in its order
    learnable: A | None = None  # [n, M] bool, what training sees of them; None = what is present
    rows: dict[str, A] | None = None  # modality -> [n] int32, see `Corpus.rows`


class Run(NamedTuple, Generic[A]):
    """What distinguishes one run from another; of R runs every leaf has R in front."""

    key: A  # [2] uint32, a PRNG key's data
    statistics: Statistics[A]  # of the fold's training part
    labels: A  # [N] int32, of the corpus; shuffled in the control
    class_weights: A  # [C]
    # For training alone:
    total_steps: A | None = None  # scalar int32, of the stage's whole training
    learning_rate: A | None = None  # scalar, the peak
    weight_decay: A | None = None  # scalar
    loss_weights: dict[str, A] | None = None  # term -> scalar, see systems.system.Stage


class TrainState(NamedTuple):
    """One run between two steps; of R runs every leaf has R in front."""

    params: jax.Array  # [P] float32, see Vector
    average: jax.Array  # [P], running mean of params, which is validated and tested
    opt_state: optax.OptState
    step: jax.Array  # scalar int32


class Masking(NamedTuple):
    """How training hides modalities."""

    patterns: np.ndarray  # [P, M] bool
    probabilities: np.ndarray  # [P]
    per_sample: bool  # else one pattern a batch
    rates: np.ndarray | None = None  # [M], of independent losses; then patterns are not drawn
    frame_rate: float = 0.0  # share of the frames of what is available that are lost
    span_rate: float = 0.0  # the same, as one span in each modality
    modalities: tuple[str, ...] = ()  # names of the M columns; `jit` sorts a dictionary's keys


def utterances(arrays: Arrays[jax.Array], rows: jax.Array) -> jax.Array:
    """Rows of `arrays` as rows of the corpus."""
    return rows if arrays.held is None else arrays.held[rows]


def take_batch(
    arrays: Arrays[jax.Array],
    run: Run[jax.Array],
    rows: jax.Array,
    dtype: DTypeLike = jnp.float32,
    encoded: Collection[str] = (),
) -> Batch:
    """Gathers the utterances `rows` `[B]`, normalised with the run's statistics, as `dtype`.

    Modalities that are `encoded` stay as they are, for `encoders.see`.
    """
    features = {m: x[rows] for m, x in arrays.features.items()}
    features |= normalise(
        {m: x for m, x in features.items() if m not in encoded}, run.statistics, dtype
    )
    labels = run.labels[utterances(arrays, rows)]
    return Batch(
        features, arrays.mask[rows], arrays.present[rows], labels, run.class_weights[labels]
    )


def take_rows(arrays: Arrays[jax.Array], rows: jax.Array) -> dict[str, jax.Array]:
    """How many rows the utterances `rows` `[B]` have in the modalities of `Corpus.rows`."""
    return {m: x[rows] for m, x in (arrays.rows or {}).items()}


def without_dropped(
    arrays: Arrays[jax.Array], rows: jax.Array, modalities: Sequence[str]
) -> tuple[Arrays, jax.Array]:
    """The utterances `rows` `[B]` as training sees them: what is dropped is not in the pack.

    Returns:
      Arrays of these utterances alone, and their rows in them.
    """
    if arrays.learnable is None:
        return arrays, rows
    there = arrays.learnable[rows]
    features = {
        m: jnp.where(there[:, k, None, None], arrays.features[m][rows], 0)
        for k, m in enumerate(modalities)
    }
    alone = Arrays(features, arrays.mask[rows], there, utterances(arrays, rows))
    if arrays.rows:
        kept = dict(zip(modalities, there.T, strict=True))
        own = take_rows(arrays, rows)
        alone = alone._replace(rows={m: jnp.where(kept[m], x, 0) for m, x in own.items()})
    return alone, jnp.arange(len(rows))


def draw_available(
    key: jax.Array, masking: Masking, present: jax.Array, batch_axis: str | None = None
) -> jax.Array:
    """Simulated availability `[B, M]`: random patterns, limited to what is `present` `[B, M]`.

    An utterance that would have no modality left keeps all that it has; with `masking.rates`, one.
    """
    batch = present.shape[0]
    if masking.rates is not None:
        size = batch if masking.per_sample else 1
        cut = batch_axis if masking.per_sample else None
        luck = _uniform(key, (size, present.shape[1]), cut)
        return missing.keep(luck, present, jnp.float32(masking.rates)[None])
    shards = jax.lax.axis_size(batch_axis) if batch_axis else 1
    draws = jax.random.choice(
        key,
        len(masking.patterns),
        (batch * shards if masking.per_sample else 1,),
        p=jnp.asarray(masking.probabilities),
    )
    if masking.per_sample and batch_axis:
        start = jax.lax.axis_index(batch_axis) * batch
        draws = jax.lax.dynamic_slice_in_dim(draws, start, batch)
    available = jnp.asarray(masking.patterns)[draws] & present
    return jnp.where(available.any(axis=1, keepdims=True), available, present)


def lose_frames(
    key: jax.Array,
    masking: Masking,
    batch: Batch,
    available: jax.Array,
    batch_axis: str | None = None,
) -> tuple[Batch, jax.Array]:
    """Loses frames of what is `available` `[B, M]`; what is to be recovered stays whole.

    Returns:
      The batch, zero where a frame is lost, and what is available still: a modality that would
      lose its last frame is missing.
    """
    frame_key, span_key = jax.random.split(key)
    there = batch.mask[:, None] & available[:, :, None]
    margin = _uniform(frame_key, there.shape, batch_axis) - masking.frame_rate
    if masking.span_rate:
        draws = _uniform(span_key, (*there.shape[:2], 2), batch_axis)
        mask = jnp.broadcast_to(batch.mask[:, None], there.shape)
        span = missing.span_luck(draws[..., :1], draws[..., 1:], mask) - masking.span_rate
        margin = jnp.minimum(margin, span)
    kept = missing.keep_frames(margin, there, 0.0)
    available = kept.any(axis=-1)
    lost = jnp.moveaxis(available[:, :, None] & there & ~kept, 1, 0)
    return zero_frames(batch, dict(zip(masking.modalities, lost, strict=True))), available


def zero_frames(batch: Batch, lost: Mapping[str, jax.Array]) -> Batch:
    """The batch with normalised features of zero, their mean, where `lost`: name -> `[B, T]`."""
    features = {m: jnp.where(lost[m][..., None], 0, x) for m, x in batch.features.items()}
    return batch._replace(features=features)


def _uniform(key: jax.Array, shape: tuple[int, ...], batch_axis: str | None) -> jax.Array:
    """Numbers 0 to 1 `[B, ...]`; of a batch that is cut, this device's rows of the whole."""
    if not batch_axis:
        return jax.random.uniform(key, shape)
    size, *rest = shape
    whole = jax.random.uniform(key, (size * jax.lax.axis_size(batch_axis), *rest))
    start = jax.lax.axis_index(batch_axis) * size
    return jax.lax.dynamic_slice_in_dim(whole, start, size)


def make_optimizer(
    *, clip_norm: float, beta1: float = 0.9
) -> optax.GradientTransformationExtraArgs:
    """AdamW without its learning rate, for one vector of parameters; clip_norm = 0: no clipping.

    Its `update` also takes `weight_decay` `[P]`, one number for each parameter.
    """

    def decay(updates, state, params, *, weight_decay, **_):
        return updates + weight_decay * params, state

    return optax.chain(
        optax.stateless(_clipper(clip_norm)) if clip_norm else optax.identity(),
        optax.scale_by_adam(b1=beta1),
        optax.GradientTransformationExtraArgs(optax.init_empty_state, decay),
    )


def _clipper(limit: float) -> Callable[[jax.Array, jax.Array | None], jax.Array]:
    # A factor, so that the moments read the gradient once: optax selects between the gradient and
    # the clipped gradient, which costs two more passes over all parameters.
    return lambda gradients, _: (
        gradients * (limit / jnp.maximum(jnp.sqrt(jnp.sum(gradients**2)), limit))
    )


SCHEDULES = ("constant", "cosine", "linear")


def learning_rate(
    step: jax.Array,
    total_steps: jax.Array,
    peak: jax.Array,
    *,
    warmup: float,
    schedule: str,
    linear_from: float = 0.5,
) -> jax.Array:
    """Linear warm-up to `peak` over the share `warmup` of the steps, then `schedule`.

    "constant"; "cosine" to 0; "linear": constant for the share `linear_from` of the steps, then
    linear to 0, as in MMIN.
    """
    progress = step / total_steps
    rate = peak * jnp.minimum(1, (progress + 1 / total_steps) / max(warmup, 1e-9))
    if schedule == "cosine":
        rate = rate * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
    if schedule == "linear":
        rate = rate * jnp.clip((1 - progress) / (1 - linear_from), 0, 1)
    return rate


def make_train_epoch(
    stage: Stage,
    vector: Vector,
    optimizer: optax.GradientTransformation,
    rate: Callable[..., jax.Array],
    masking: Masking,
    averaging: float = 0.0,
    batch_axis: str | None = None,
    parts: int = 1,
) -> Callable:
    """Builds the epoch of one run: one scan over the steps, without Python between them.

    Args:
      stage: what is trained.
      vector: how its parameters lie.
      optimizer: from `make_optimizer`.
      rate: (step, total_steps, peak) -> learning rate; `warmup=` where it is an encoder's own.
      masking: the simulated missing patterns.
      averaging: decay of the running mean of the parameters (Polyak and Juditsky, 1992), smaller
        in the first steps; 0 = the mean is the latest parameters.
      batch_axis: name of the mapped axis that the batch is cut over, if it is.
      parts: that a batch is computed in, one after another, to save memory. The gradient is their
        mean; losses that compare utterances compare those of a part.

    Returns:
      (state, run, order `[S, B]`, arrays) -> (state, name -> sum over the steps). A row of
      `order` that begins with -1 is skipped: runs with fewer utterances end earlier. A step with
      a term that is not finite is not taken, and no step follows: the parameters and `state.step`
      stay as before it, and the sums of such terms are not finite.
    """
    loss = objective(stage)

    def train_epoch(
        state: TrainState, run: Run[jax.Array], order: jax.Array, arrays: Arrays[jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key, decay = prng.key(run.key), vector.decays(run.weight_decay)

        def of_part(params, rows, key):
            """((loss, its terms), gradients) of the utterances `rows`."""
            mask_key, loss_key = jax.random.split(key)
            seen, rows = without_dropped(arrays, rows, masking.modalities)
            batch = take_batch(seen, run, rows, stage.precision.dtype, stage.encoded)
            own_rows = take_rows(seen, rows)
            available = batch.present
            if not stage.complete:
                available = draw_available(mask_key, masking, batch.present, batch_axis)

            def of_batch(params):
                encoder_key = jax.random.fold_in(loss_key, 1)
                shown = encoders.see(stage, params, batch, own_rows, run.statistics, encoder_key)
                left = available
                if not stage.complete and (masking.frame_rate or masking.span_rate):
                    frame_key = jax.random.fold_in(mask_key, 1)
                    shown, left = lose_frames(frame_key, masking, shown, left, batch_axis)
                return loss(params, shown, left, loss_key, run.loss_weights)

            with stage.precision.multiplying():
                return jax.value_and_grad(of_batch, has_aux=True)(params)

        @jax.jit  # else `eval_shape` below would trace it a second time
        def step(state, rows):
            params, step_key = vector.unravel(state.params), jax.random.fold_in(key, state.step)
            if parts == 1:
                (total, terms), gradients = of_part(params, rows, step_key)
            else:
                keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(parts))
                shapes = jax.eval_shape(of_part, params, rows[: len(rows) // parts], keys[0])
                summed, _ = jax.lax.scan(
                    lambda so_far, part: (jax.tree.map(jnp.add, so_far, of_part(params, *part)), 0),
                    jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
                    (rows.reshape(parts, -1), keys),
                )
                (total, terms), gradients = jax.tree.map(lambda x: x / parts, summed)
            gradients = vector.ravel(gradients)
            if batch_axis:
                gradients = jax.lax.pmean(gradients, batch_axis)
            updates, opt_state = optimizer.update(
                gradients, state.opt_state, state.params, weight_decay=decay
            )
            terms = terms | {"loss": total, "gradient_norm": jnp.sqrt(jnp.sum(gradients**2))}
            finite = jnp.all(jnp.isfinite(jnp.stack(jax.tree.leaves(terms))))
            if batch_axis:
                finite = jax.lax.pmin(finite.astype(jnp.int32), batch_axis) > 0
            now = functools.partial(rate, state.step, run.total_steps)
            lr = vector.rates(now(run.learning_rate), now)
            params = jnp.where(finite, state.params - lr * updates, state.params)
            share = jnp.minimum(averaging, (1 + state.step) / (10 + state.step))
            average = jnp.where(finite, params + share * (state.average - params), state.average)
            taken = finite.astype(state.step.dtype)
            return (TrainState(params, average, opt_state, state.step + taken), finite), terms

        def step_or_skip(carry, rows):
            state, finite = carry
            terms = jax.eval_shape(step, state, rows)[1]
            nothing = jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype), terms)
            return jax.lax.cond(
                (rows[0] >= 0) & finite,
                step,
                lambda state, _: ((state, finite), nothing),
                state,
                rows,
            )

        (state, _), terms = jax.lax.scan(step_or_skip, (state, jnp.array(True)), order)
        return state, jax.tree.map(jnp.sum, terms)

    return train_epoch
