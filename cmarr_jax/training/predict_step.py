"""One run's predictions under several conditions, as a pure function of any system's stage."""

from collections.abc import Callable
from typing import Generic, NamedTuple

import jax
import jax.numpy as jnp

from cmarr_jax.systems.system import Batch, Stage
from cmarr_jax.training import encoders, prng
from cmarr_jax.training.normalise import A
from cmarr_jax.training.train_step import (
    Arrays,
    Run,
    take_batch,
    take_rows,
    utterances,
    zero_frames,
)
from cmarr_jax.training.vector import Vector


class Probe(NamedTuple, Generic[A]):
    """What models are scored under: availabilities, and noise on what is available."""

    available: A  # [K, N, M] bool, of every utterance of the corpus
    gaussian: A  # scalar in [0, 1], share of the variance that is noise
    impulse: A  # scalar in [0, 1], the same of impulse noise
    lost: dict[str, A] | None = None  # modality -> [N, T] bool, frames that are lost under all K


def add_noise(batch: Batch, rows: jax.Array, probe: Probe[jax.Array]) -> Batch:
    """NMER's corruption of normalised features: sqrt(1 - a) x + sqrt(a) noise at level a.

    Gaussian noise is standard normal; impulse noise is +1 or -1 at three values in ten, else 0
    (Lee et al.'s code). An utterance's noise depends on its row alone, so that scores repeat.
    """
    noisy = {}
    for k, (modality, x) in enumerate(batch.features.items()):

        def draw(row, k=k, shape=x.shape[1:]):
            key = jax.random.fold_in(jax.random.fold_in(prng.key(jnp.zeros(2, jnp.uint32)), k), row)
            normal, uniform = jax.random.split(key)
            normal = jax.random.normal(normal, shape)
            return normal, jnp.sign(normal) * (jax.random.uniform(uniform, shape) > 0.7)

        normal, impulse = jax.vmap(draw)(rows)
        for level, noise in ((probe.gaussian, normal), (probe.impulse, impulse)):
            x = jnp.sqrt(1 - level) * x + jnp.sqrt(level) * noise
        noisy[modality] = x.astype(batch.features[modality].dtype)
    return batch._replace(features=noisy)


def make_predict(stage: Stage, vector: Vector, noisy: bool = False) -> Callable:
    """Builds the scoring of one run's model on B utterances under all of a probe's conditions.

    Args:
      stage: what predicts.
      vector: how its parameters lie.
      noisy: whether the probe adds noise.

    Returns:
      (params, run, rows `[B]`, (arrays, probe)) -> (posteriors `[K, B, C]`, recovery
      `[K, B, M, 2]`, means `[K, B, 2, D]`). Recovery holds, for each missing modality, the squared
      error of what was recovered and the squared length of the truth; 0 where nothing was missing,
      and where frames are lost, which the truth would lack too. Means are those of what was
      recovered and of the truth, over all missing positions; D is 0 where the stage recovers
      nothing. What does not depend on the condition is computed once.
    """

    def predict(
        params: jax.Array,
        run: Run[jax.Array],
        rows: jax.Array,
        shared: tuple[Arrays[jax.Array], Probe[jax.Array]],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        arrays, probe = shared
        params = vector.unravel(params)
        batch = take_batch(arrays, run, rows, stage.precision.dtype, stage.encoded)
        own_rows = take_rows(arrays, rows)
        with stage.precision.multiplying():
            batch = encoders.see(stage, params, batch, own_rows, run.statistics)
        if noisy:
            batch = add_noise(batch, utterances(arrays, rows), probe)
        if probe.lost is not None:
            lost = {m: x[utterances(arrays, rows)] for m, x in probe.lost.items()}
            batch = zero_frames(batch, lost)
        with stage.precision.multiplying():
            encoded = stage.encode(params, batch)

        def under(available):
            available = available & batch.present
            with stage.precision.multiplying():
                prediction = stage.predict(params, encoded, batch.mask, available)
            posteriors = jax.nn.softmax(prediction.logits.astype(jnp.float32))
            if prediction.recovered is None or probe.lost is not None:
                return (
                    posteriors,
                    jnp.zeros((*batch.present.shape, 2)),
                    jnp.zeros((len(rows), 2, 0)),
                )
            missing = (batch.present & ~available).T[:, :, None, None]
            weights = missing & batch.mask[None, :, :, None]
            both = prediction.recovered, prediction.target
            recovered, target = (x.astype(jnp.float32) for x in both)
            squares = [
                jnp.sum(jnp.square(x) * weights, (2, 3)).T for x in (recovered - target, target)
            ]
            count = jnp.maximum(jnp.sum(weights, (0, 2)), 1)
            means = [jnp.sum(x * weights, (0, 2)) / count for x in (recovered, target)]
            return posteriors, jnp.stack(squares, axis=-1), jnp.stack(means, axis=1)

        return jax.lax.map(under, probe.available[:, utterances(arrays, rows)])

    return predict
