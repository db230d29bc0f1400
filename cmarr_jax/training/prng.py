"""A counter-based PRNG whose bits cost a few integer operations, for dropout and the like.

JAX's default, threefry, is a loop of twenty rounds. On CPU a step's dropout bits took longer to
draw than their layers to compute, and each of the many calls longer to compile. Here a word is two
rounds of a 32-bit integer hash (the "lowbias32" constants of Wellons' hash prospector) over its
index and the key. It is not for cryptography; its bits pass the checks in
tests/training/test_prng.py. Keys work with `jax.random` like any others.
"""

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
from jax import lax


def key(data: jax.Array) -> jax.Array:
    """A typed key from `[2]` uint32 of key data, such as `jax.random.key_data` gives."""
    return jax.random.wrap_key_data(data, impl=_IMPLEMENTATION)


def _mix(x):
    # lax, because it traces faster than jnp's operators; a sweep traces hundreds of these.
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = lax.bitwise_xor(x, lax.shift_right_logical(x, np.uint32(shift)))
        x = lax.mul(x, np.uint32(factor))
    return lax.bitwise_xor(x, lax.shift_right_logical(x, np.uint32(16)))


def _seed(seed):
    seed = jnp.asarray(seed).astype(jnp.uint32)
    return jnp.stack([_mix(seed), _mix(seed ^ np.uint32(0x9E3779B9))])


def _fold_in(words, data):
    data = jnp.asarray(data).astype(jnp.uint32)
    first = _mix(words[0] + _mix(data ^ np.uint32(0x85EBCA6B)))
    return jnp.stack([first, _mix(words[1] ^ _mix(data + np.uint32(0xC2B2AE35)) ^ first)])


def _split(words, shape):
    count = int(np.prod(shape))
    words = words ^ np.uint32(0x27D4EB2F)  # else child i would equal the key of fold_in(i)
    children = jax.vmap(lambda i: _fold_in(words, i))(jnp.arange(count, dtype=jnp.uint32))
    return children.reshape(*shape, 2)


def _random_bits(words, bit_width, shape):
    if bit_width > 32:
        raise ValueError(f"{bit_width}-bit words: this generator makes up to 32")
    index = lax.iota(jnp.uint32, int(np.prod(shape)))
    bits = _mix(_mix(index + words[0]) ^ words[1]).reshape(shape)
    return bits.astype(jnp.dtype(f"uint{bit_width}"))


_IMPLEMENTATION = jax.extend.random.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="lowbias32",
    tag="lb",
)
