import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.nn.conv import Conv1D

pytestmark = pytest.mark.device


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_equals_flax_conv_on_its_parameters(rng, length, kernel_size):
    x = jnp.float32(rng.normal(size=(2, length, 6)))
    reference = nn.Conv(7, (kernel_size,))
    params = reference.init(jax.random.key(0), x)
    ours = Conv1D(7, kernel_size).apply(params, x)
    np.testing.assert_allclose(ours, reference.apply(params, x), atol=1e-5)
