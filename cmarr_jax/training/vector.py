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
from cmarr_jax.training import prng


class Vector(NamedTuple):
    """How the parameters of a stage lie in a vector `[P]`."""

    size: int  # P
    ravel: Callable[[Params], jax.Array]  # tree -> [P]
    # [P] -> tree of the same kind of array; no gradient reaches the stage's frozen parameters
    unravel: Callable[[jax.Array | np.ndarray], Params]
    # -> [P] float32, 1 where weight decay acts. A function, because a constant of this length
    # would be traced, hashed, compiled and cached with the program.
    decayed: Callable[[], jax.Array]
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

    def decayed():
        marks = [float(d and on) for d, on in zip(decaying, trained, strict=True)]
        pairs = zip(marks, leaves, strict=True)
        return jnp.concatenate([jnp.full(leaf.size, mark) for mark, leaf in pairs])

    lie = [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in named]
    digest = hashlib.blake2b(repr(lie).encode(), digest_size=8).hexdigest()
    return Vector(ends[-1], ravel, unravel, decayed, digest)


def make_vectors(stages: Sequence[Stage], corpus: Corpus) -> list[Vector]:
    """The vector of each stage of a system, in order."""
    vectors, shapes = [], None
    key = prng.key(jax.device_put(np.zeros(2, np.uint32)))
    for stage in stages:
        shapes = jax.jit(stage.init).eval_shape(key, example(corpus), shapes)
        vectors.append(make_vector(stage, shapes))
    return vectors


def init_params(
    stage: Stage, vector: Vector, keys: np.ndarray, corpus: Corpus, before: Sequence | None = None
) -> jax.Array:
    """Fresh parameters of each run, `[R, P]`.

    They depend on nothing but the run's key and its parameters of the stage before.

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

    def init(run):
        key, params = run
        tree = tree_of(params) if tree_of else None
        # `jit` finds the trace of `make_vectors` again, unless the batch is cut.
        return vector.ravel(jax.jit(stage.init)(prng.key(key), example(corpus), tree))

    return jax.jit(lambda *runs: jax.lax.map(init, runs))(keys, params)


def example(corpus: Corpus) -> Batch:
    """A batch of two utterances of zeros, for its shapes."""
    features = {m: np.zeros((2, *x.shape[1:]), np.float32) for m, x in corpus.features.items()}
    labels, weights = np.zeros(2, np.int32), np.zeros(2, np.float32)
    shown = features, corpus.mask[:2], corpus.present[:2], labels, weights
    return Batch(*cast(Batch, shown))  # NumPy serves: nothing is computed
