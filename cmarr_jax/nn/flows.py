"""RealNVP over the features of each position (Dinh et al., 2017, arXiv:1605.08803)."""

import functools

import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.typing import DTypeLike

from cmarr_jax.nn import reversible
from cmarr_jax.nn.dense import affine

PERMUTATIONS = ("swap", "none", "glow")
_LEAST_LOG_SCALE = -60.0  # of a whole chain; its inverse scales by at most e^60 = 1e26: float32


class RealNVP(nn.Module):
    """A chain of affine couplings, applied to every position on its own.

    With x = (a, b) split in the middle of the features and (t, h) = net(a), one layer is

        forward          a' = a,  b' = b * s(h) + t,  then the halves change places
        forward log det  sum log s(h)
        inverse          b = (b' - t) / s(h)

    with a two-layer net whose last layer starts at zero, so that at first b' = s(0) * b. All
    layers have equal shapes: their parameters are stacked and scanned.

    Numbers, over 10,000 inputs at random weights (tests/systems/test_float64.py): forward, inverse
    and round trip of |x| up to 10 differ from float64's, over max(1, |x|), by at most 1e-3 (tanh,
    swap, 8 couplings), 3e-3 (tanh, glow, 8), 1e-5 (sigmoid, swap, 8), 0.01 (sigmoid, none, 32). Up
    to 1e4 all is finite, gradients too, and 99 in 100 differ by at most 0.01 (tanh, swap) or 0.5
    (tanh, glow). No bound holds for the round trip of a sigmoid at its floor.

    Attributes:
      features: D, even.
      num_couplings: layers.
      hidden: width of the nets.
      scale: "tanh": s(h) = exp(2 tanh(h / 2)), which starts at the identity; "sigmoid":
        b' = (b + t) * sigmoid(h + 2), as DiCMoR and Glow code it, but the sigmoid stays above
        exp(-60 / num_couplings): theirs can reach zero, which has no inverse.
      permute: what follows a coupling. "swap": the halves change places. "none", as DiCMoR
        codes it: the first half passes through the whole flow untouched. "glow": they change
        places and each position then meets Glow's activation norm and invertible 1 x 1
        convolution (Kingma and Dhariwal, 2018), W = L U by its factors. Both start at the
        identity, not from the first batch: the flow's inputs stem from a layer norm.
      output_scale: multiplies each net's result by exp(3 g), g learned, as Glow's code does.
      dtype: of the nets, see `cmarr_jax.nn`. What passes through the chain stays float32: a layer's
        rounding would come back from the inverse e^2 times as large. With "glow" the nets do too,
        since its convolution changes the last bits of what they read on the way back. With nets
        in bfloat16 the round trip of 99 in 100 inputs differs by at most 1e-3 of max(1, |x|), of
        all 2,000 by 0.05 (tanh, swap, 8) or 0.01 (sigmoid, swap, 8), where float32's bits flip
        one of bfloat16's; forward differs from float32's by 0.1 or 0.02 in 99 of 100
        (tests/systems/test_precision.py).
    """

    features: int
    num_couplings: int
    hidden: int
    scale: str = "tanh"
    permute: str = "swap"
    output_scale: bool = False
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """The weights of all couplings, stacked, `[num_couplings, ...]`."""
        half, hidden, layers = self.features // 2, self.hidden, self.num_couplings
        kernel = nn.initializers.lecun_normal(batch_axis=0)
        zeros = nn.initializers.zeros
        shapes = {
            "kernel_0": (kernel, (layers, half, hidden)),
            "bias_0": (zeros, (layers, hidden)),
            "kernel_1": (kernel, (layers, hidden, hidden)),
            "bias_1": (zeros, (layers, hidden)),
            "kernel_2": (zeros, (layers, hidden, self.features)),
            "bias_2": (zeros, (layers, self.features)),
        }
        if self.output_scale:
            shapes["output_scale"] = (zeros, (layers, self.features))
        if self.permute == "glow":
            shapes |= {
                "shift": (zeros, (layers, self.features)),
                "log_scale": (zeros, (layers, self.features)),
                "factors": (zeros, (layers, self.features, self.features)),
            }
        self.weights = {name: self.param(name, *spec) for name, spec in shapes.items()}

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`[..., D]` -> latent `[..., D]` and log |det dz/dx| `[...]`."""
        x = x.astype(jnp.float32)
        if self._is_recomputed:
            return reversible.chain(self._coupling, False, x, self.weights)

        def layer(carry, weights):
            x, log_det = carry
            x, more = self._split_coupling(weights).forward_and_log_det(x)
            if self.permute != "none":
                x = jnp.roll(x, self.features // 2, axis=-1)
            if self.permute == "glow":
                lower, upper, log_scale = _triangles(weights)
                x = (x + weights["shift"].reshape((1,) * (x.ndim - 1) + (-1,))) @ (lower @ upper).T
                more = more + jnp.sum(log_scale)
            return (x, log_det + more), None

        start = (x, jnp.zeros(x.shape[:-1], jnp.float32))
        return jax.lax.scan(layer, start, self.weights)[0]

    def inverse(self, z: jax.Array) -> jax.Array:
        """`[..., D]` -> `[..., D]`, the inverse of `forward_and_log_det`."""
        if self._is_recomputed:
            return reversible.chain(self._coupling, True, z, self.weights)[0]

        def layer(z, weights):
            if self.permute == "glow":
                lower, upper, _ = _triangles(weights)
                columns = z.reshape(-1, self.features).T
                columns = solve_triangular(lower, columns, lower=True, unit_diagonal=True)
                z = solve_triangular(upper, columns).T.reshape(z.shape)
                z = z - weights["shift"].reshape((1,) * (z.ndim - 1) + (-1,))
            if self.permute != "none":
                z = jnp.roll(z, self.features // 2, axis=-1)
            return self._split_coupling(weights).inverse(z), None

        return jax.lax.scan(layer, z, self.weights, reverse=True)[0]

    @property
    def _is_recomputed(self) -> bool:
        """Whether a backward pass computes the activations again, from the chain's result.

        Not in float32, whose numbers stay as they are, nor where a layer's inverse can lose what
        it scaled down (a sigmoid's), or is a system of equations (glow's).
        """
        return self.dtype != jnp.float32 and self.scale == "tanh" and self.permute != "glow"

    @property
    def _coupling(self) -> reversible.Coupling:
        return reversible.Coupling(self._net, self._bijector, self.permute == "swap")

    def _split_coupling(self, weights: dict[str, jax.Array]) -> distrax.Bijector:
        net = functools.partial(self._net, weights)
        return distrax.SplitCoupling(self.features // 2, 1, net, self._bijector)

    def _net(self, weights: dict[str, jax.Array], a: jax.Array) -> jax.Array:
        a = a.astype(jnp.float32 if self.permute == "glow" else self.dtype)
        for k in (0, 1):
            a = nn.relu(affine(a, weights[f"kernel_{k}"], weights[f"bias_{k}"]))
        a = affine(a, weights["kernel_2"], weights["bias_2"])
        if self.output_scale:
            ones = (1,) * (a.ndim - 1)
            a = a * jnp.exp(3 * weights["output_scale"]).reshape(*ones, -1)
        return a

    def _bijector(self, params: jax.Array) -> distrax.Bijector:
        # distrax returns log_det in the dtype of these two: keep it float32.
        shift, raw = jnp.split(params.astype(jnp.float32), 2, axis=-1)
        if self.scale == "tanh":
            return distrax.ScalarAffine(shift, log_scale=2 * jnp.tanh(raw / 2))
        log_scale = jnp.maximum(jax.nn.log_sigmoid(raw + 2), _LEAST_LOG_SCALE / self.num_couplings)
        return distrax.ScalarAffine(shift * jnp.exp(log_scale), log_scale=log_scale)


def _triangles(weights: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Unit lower L `[D, D]`, upper U `[D, D]` and log |diag U| `[D]`; L U = I at zero.

    U holds the activation norm's scale, which a 1 x 1 convolution right after it absorbs.
    """
    width = weights["factors"].shape[-1]
    lower = jnp.tril(weights["factors"], -1) + jnp.eye(width)
    upper = jnp.triu(weights["factors"], 1) + jnp.diag(jnp.exp(weights["log_scale"]))
    return lower, upper, weights["log_scale"]
