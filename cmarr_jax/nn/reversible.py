"""A chain of couplings whose backward pass keeps nothing but the chain's result.

Each layer's input is computed again from its output, which is exact up to rounding (Gomez et al.,
The Reversible Residual Network, NIPS 2017). It costs one more evaluation of each net and saves
writing and reading all activations of the chain.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import distrax
import jax
import jax.numpy as jnp

Weights: TypeAlias = Any  # a tree of arrays, of one layer, or `[layers, ...]`


class Coupling(NamedTuple):
    """One layer: (a, b) -> (a, bijector(net(weights, a))(b)), halves of the last axis.

    Attributes:
      net: (weights, a) -> parameters.
      bijector: parameters -> an elementwise bijector.
      swaps: whether the halves change places after it.
    """

    net: Callable[[Weights, jax.Array], jax.Array]
    bijector: Callable[[jax.Array], distrax.Bijector]
    swaps: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def chain(
    coupling: Coupling, inverse: bool, x: jax.Array, weights: Weights
) -> tuple[jax.Array, jax.Array]:
    """`x` `[..., D]` through all layers, or back through their inverses.

    Returns:
      The result `[..., D]` and the log determinant `[...]` of this way.
    """

    def layer(carry, weights):
        x, log_det = carry
        a, b = _halves(x, coupling.swaps and inverse)
        bijector = coupling.bijector(coupling.net(weights, a))
        b, more = _apply(bijector, b, inverse)
        x = _joined(a, b, coupling.swaps and not inverse)
        return (x, log_det + jnp.sum(more, axis=-1)), None

    start = (x, jnp.zeros(x.shape[:-1], x.dtype))
    return jax.lax.scan(layer, start, weights, reverse=inverse)[0]


def _forward(coupling, inverse, x, weights):
    result = chain(coupling, inverse, x, weights)
    return result, (result[0], weights)


def _backward(coupling, inverse, kept, cotangents):
    result, weights = kept
    to_result, to_log_det = cotangents

    def layer(carry, weights):
        x, to_x = carry
        a, b = _halves(x, coupling.swaps and not inverse)
        to_a, to_b = _halves(to_x, coupling.swaps and not inverse)
        params, pull_net = jax.vjp(coupling.net, weights, a)
        before, _ = _apply(coupling.bijector(params), b, not inverse)
        (_, more), pull = jax.vjp(
            lambda params, b: _apply(coupling.bijector(params), b, inverse), params, before
        )
        to_more = jnp.broadcast_to(to_log_det[..., None], more.shape)
        to_params, to_before = pull((to_b, to_more))
        to_weights, through_net = pull_net(to_params)
        x = _joined(a, before, coupling.swaps and inverse)
        to_x = _joined(to_a + through_net, to_before, coupling.swaps and inverse)
        return (x, to_x), to_weights

    (_, to_x), to_weights = jax.lax.scan(layer, (result, to_result), weights, reverse=not inverse)
    return to_x, to_weights


chain.defvjp(_forward, _backward)


def _apply(bijector: distrax.Bijector, b: jax.Array, inverse: bool) -> tuple[jax.Array, jax.Array]:
    return bijector.inverse_and_log_det(b) if inverse else bijector.forward_and_log_det(b)


def _halves(x: jax.Array, swap: bool) -> list[jax.Array]:
    a, b = jnp.split(x, 2, axis=-1)
    return [b, a] if swap else [a, b]


def _joined(a: jax.Array, b: jax.Array, swap: bool) -> jax.Array:
    return jnp.concatenate([b, a] if swap else [a, b], axis=-1)
