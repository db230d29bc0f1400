"""All parameters of a stage as one vector, and how they lie in it.

With one long array instead of a hundred short ones, the optimizer compiles to a few kernels. A
tree of parameters was measured to take 1.3 to 1.8 times the time to compile an epoch, and
`optax.flatten` 1.3 to 1.7 times; steps take the same time (docs/speed.md).
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.systems.system import Batch, Params, Stage
from cmarr_jax.training import encoders, prng


class Vector(NamedTuple):
    """How the parameters of a stage lie in a vector `[P]`."""

    size: int  # P
    ravel: Callable[[Params], jax.Array]  # tree -> [P]
    # [P] -> tree of the same kind of array; no gradient reaches the stage's frozen parameters
    unravel: Callable[[jax.Array | np.ndarray], Params]
    # weight decay of the system, a scalar -> [P] float32, with that of encoders, and 0 where none
    # acts. A function, because a constant of this length would be traced, hashed, compiled and
    # cached with the program.
    decays: Callable[..., jax.Array]
    # learning rate of the system, (peak, warmup=) -> learning rate -> a scalar, or [P] with that of
    # encoders
    rates: Callable[[jax.Array, Callable[..., jax.Array]], jax.Array]
    digest: str  # of the names and shapes of all leaves, in order


def make_vector(stage: Stage, shapes: Params) -> Vector:
    """The vector of a stage's parameters.

    Args:
      stage: its `frozen` and `decayed` say what is trained and what decays.
      shapes: its parameters' shapes, {"params": {name: ...}}, as `jax.eval_shape` gives them.
    """
    named, structure = jax.tree_util.tree_flatten_with_path(shapes)
    paths, leaves = zip(*named, strict=True)
    ends = np.cumsum([leaf.size for leaf in leaves]).tolist()
    trained = [not {entry.key for entry in path} & set(stage.frozen) for path in paths]
    decaying = jax.tree.leaves(stage.decayed(shapes))

    def ravel(tree):
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])

    def unravel(vector):
        # On the host NumPy does it: a program would have to be compiled.
        on_host = isinstance(vector, np.ndarray)
        pieces = (np if on_host else jnp).split(vector, ends[:-1])
        pieces = [p.reshape(leaf.shape) for p, leaf in zip(pieces, leaves, strict=True)]
        if not on_host:
            stop = jax.lax.stop_gradient
            pieces = [p if on else stop(p) for p, on in zip(pieces, trained, strict=True)]
        return structure.unflatten(pieces)

    def spread(numbers):
        pairs = zip(numbers, leaves, strict=True)
        return jnp.concatenate([jnp.full(leaf.size, number) for number, leaf in pairs])

    of_leaf = [encoders.of_leaf(stage, path) for path in paths]

    def decays(own):
        marks = [float(d and on) for d, on in zip(decaying, trained, strict=True)]
        decay = [of.encoder.weight_decay if of else own for of in of_leaf]
        return spread([mark * each for mark, each in zip(marks, decay, strict=True)])

    def rates(own, now):
        if not any(of_leaf):
            return own
        peaks = {
            e.modality: own if e.learning_rate is None else now(e.learning_rate, warmup=e.warmup)
            for e in stage.encoders
        }
        return spread([of.factor * peaks[of.encoder.modality] if of else own for of in of_leaf])

    lie = [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in named]
    digest = hashlib.blake2b(repr(lie).encode(), digest_size=8).hexdigest()
    return Vector(ends[-1], ravel, unravel, decays, rates, digest)


def make_vectors(stages: Sequence[Stage], corpus: Corpus) -> list[Vector]:
    """The vector of each stage of a system, in order."""
    vectors, key = [], prng.key(jax.device_put(np.zeros(2, np.uint32)))
    shapes = encoders.published(stages[0].encoders)
    for stage in stages:
        shapes = jax.jit(stage.init).eval_shape(key, example(corpus, stage), shapes)
        vectors.append(make_vector(stage, shapes))
    return vectors


def init_params(
    stage: Stage, vector: Vector, keys: np.ndarray, corpus: Corpus, before: Sequence | None = None
) -> jax.Array:
    """Fresh parameters of each run, `[R, P]`.

    They depend on nothing but the run's key, its parameters of the stage before, and the published
    ones of encoders.

    Args:
      stage: what is initialised.
      vector: how its parameters lie.
      keys: data of the runs' PRNG keys, `[R, 2]`.
      corpus: its shapes are those of the network's input.
      before: vector and parameters `[R, P']` of the stage before; None for the first stage.
    """
    tree_of, params = (before[0].unravel, before[1]) if before else (None, None)
    if params is None:
        params = np.zeros((len(keys), 0), np.float32)
    start = None if before else encoders.published(stage.encoders)

    def init(run, start):
        key, params = run
        tree = tree_of(params) if tree_of else start
        # `jit` finds the trace of `make_vectors` again, unless the batch is cut.
        return vector.ravel(jax.jit(stage.init)(prng.key(key), example(corpus, stage), tree))

    # What was published is an argument: as a constant it would be compiled with the program.
    every = jax.jit(lambda runs, start: jax.lax.map(lambda run: init(run, start), runs))
    return every((keys, params), start)


def example(corpus: Corpus, stage: Stage) -> Batch:
    """A batch of two utterances of zeros, for the shapes that the stage's system sees."""
    widths = {m: x.shape[-1] for m, x in corpus.features.items()}
    widths |= {encoder.modality: encoder.dim for encoder in stage.encoders}
    length = corpus.mask.shape[1]
    features = {m: np.zeros((2, length, width), np.float32) for m, width in widths.items()}
    labels, weights = np.zeros(2, np.int32), np.zeros(2, np.float32)
    shown = features, corpus.mask[:2], corpus.present[:2], labels, weights
    return Batch(*cast(Batch, shown))  # NumPy serves: nothing is computed
