"""Rebuilds only the utterances that lack a modality, so that the others cost nothing."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

Weights: TypeAlias = Any  # a tree of arrays
Rebuild = Callable[[Weights, jax.Array, jax.Array], jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def rebuild_missing(
    rebuild: Rebuild,
    size: int,
    weights: Weights,
    latent: jax.Array,
    mask: jax.Array,
    missing: jax.Array,
) -> jax.Array:
    """What `rebuild` gives for the utterances that lack a modality.

    For each modality the utterances that lack it come first, in chunks of `size`; chunks without
    one of them are skipped. The backward pass computes a chunk's activations again: a third more
    products, but no activations are kept.

    Args:
      rebuild: (one modality's weights, latent `[size, T, D]`, mask `[size, T]`) -> `[size, T, D]`;
        it must not mix utterances; its result may be of another type.
      size: utterances a chunk, at most B.
      weights: leaves `[M, ...]`.
      latent: `[B, T, D]`.
      mask: `[B, T]` bool.
      missing: `[M, B]` bool.

    Returns:
      `[M, B, T, D]` of `latent`'s type; finite, but without meaning or gradient where nothing is
      missing.
    """

    def of_modality(_, given):
        weights, missing = given
        number, chunk = _chunks(missing, size)

        def put(k, rebuilt):
            rows, _ = chunk(k)
            new = rebuild(weights, latent[rows], mask[rows])
            return rebuilt.at[rows].set(new.astype(latent.dtype))

        return None, jax.lax.fori_loop(0, number, put, latent)

    return jax.lax.scan(of_modality, None, (weights, missing))[1]


def _forward(rebuild, size, *given):
    return rebuild_missing(rebuild, size, *given), given


def _backward(rebuild, size, given, cotangents):
    weights, latent, mask, missing = given

    def of_modality(to_latent, given):
        weights, missing, cotangent = given
        number, chunk = _chunks(missing, size)

        def add(k, sums):
            to_weights, to_latent = sums
            rows, new = chunk(k)
            _, pull = jax.vjp(
                lambda w, z: rebuild(w, z, mask[rows]).astype(latent.dtype), weights, latent[rows]
            )
            of_weights, of_rows = pull(jnp.where(new[:, None, None], cotangent[rows], 0))
            return jax.tree.map(jnp.add, to_weights, of_weights), to_latent.at[rows].add(of_rows)

        start = jax.tree.map(jnp.zeros_like, weights), to_latent
        to_weights, to_latent = jax.lax.fori_loop(0, number, add, start)
        return to_latent, to_weights

    to_latent, to_weights = jax.lax.scan(
        of_modality, jnp.zeros_like(latent), (weights, missing, cotangents)
    )
    return to_weights, to_latent, None, None


rebuild_missing.defvjp(_forward, _backward)


def _chunks(
    missing: jax.Array, size: int
) -> tuple[jax.Array, Callable[[jax.Array], tuple[jax.Array, jax.Array]]]:
    """The chunks that hold all that is `missing` `[B]`.

    Returns:
      How many there are, and a function: number of a chunk -> its rows `[size]`, and which of
      these are missing and in no chunk before `[size]`.
    """
    order = jnp.argsort(~missing)

    def chunk(k):
        start = jnp.minimum(k * size, len(missing) - size)  # the last one may overlap
        rows = jax.lax.dynamic_slice_in_dim(order, start, size)
        return rows, missing[rows] & (start + jnp.arange(size) >= k * size)

    return -(-jnp.sum(missing) // size), chunk
