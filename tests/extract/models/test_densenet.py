import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cmarr_jax.extract import denseface
from cmarr_jax.extract.models import densenet

SMALL = {"layers": 2, "growth": 4}


@functools.cache
def shapes(layers=16, growth=12, num_classes=8, size=64):
    model = densenet.DenseNet(layers=layers, growth=growth, num_classes=num_classes)
    init = functools.partial(model.init, jax.random.key(0))
    return traverse_util.flatten_dict(jax.eval_shape(init, jnp.zeros((1, size, size, 1))))


def filled(rng, wanted):
    """Random arrays under TensorFlow's names, each of its own scale so that a mix-up shows."""
    arrays = {}
    for path, place in wanted.items():
        name = denseface.tf_name(path)
        inputs = int(np.prod(place.shape[:-1])) or 1
        array = rng.normal(size=place.shape).astype("f4") / np.sqrt(inputs, dtype="f4")
        if name.endswith("moving_variance"):
            array = np.abs(array) + np.float32(5e-3)  # small, so that epsilon matters
        arrays[name] = array + (name.endswith("gamma"))
    return arrays


def test_depth_100_has_the_published_size():
    sizes = {collection: 0 for collection, *_ in shapes()}
    for (collection, *_), place in shapes().items():
        sizes[collection] += place.size
    assert sizes == {"params": 768_044, "batch_stats": 23_988}
    features, logits = jax.eval_shape(
        densenet.DenseNet().apply,
        traverse_util.unflatten_dict(shapes()),
        jnp.zeros((5, 64, 64, 1)),
    )
    assert features.shape == (5, 342) and logits.shape == (5, 8)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("Initial_convolution/kernel", (3, 3, 1, 24)),
        ("Block_0/layer_0/bottleneck/BatchNorm/gamma", (24,)),
        ("Block_0/layer_0/bottleneck/kernel", (1, 1, 24, 48)),
        ("Block_0/layer_15/composite_function/kernel", (3, 3, 48, 12)),
        ("Transition_after_block_0/composite_function/kernel", (1, 1, 216, 108)),
        ("Block_1/layer_0/bottleneck/kernel", (1, 1, 108, 48)),
        ("Transition_after_block_1/composite_function/BatchNorm/moving_mean", (300,)),
        ("Transition_after_block_1/composite_function/kernel", (1, 1, 300, 150)),
        ("Block_2/layer_15/bottleneck/kernel", (1, 1, 330, 48)),
        ("Transition_to_classes/BatchNorm/moving_variance", (342,)),
        ("Transition_to_classes/W", (342, 8)),
        ("Transition_to_classes/bias", (8,)),
    ],
)
def test_places_have_tensorflows_names_and_shapes(name, shape):
    places = {denseface.tf_name(path): place.shape for path, place in shapes().items()}
    assert len(places) == len(shapes()) == 1 + 99 * 4 + 98 + 2
    assert places[name] == shape


def same_convolution(x, kernel, stride):
    """TensorFlow's SAME, written out: total padding so that ceil(n / stride) windows fit, the
    larger half behind.
    """
    k = kernel.shape[0]
    padding = []
    for n in x.shape[1:3]:
        total = max((-(-n // stride) - 1) * stride + k - n, 0)
        padding.append((total // 2, total - total // 2))
    x = np.pad(x, [(0, 0), *padding, (0, 0)])
    rows, columns = ((n - k) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            y[:, i, j] = np.tensordot(window, kernel, axes=3)
    return y


def oracle(arrays, faces, *, layers, blocks=3):
    """The network in loops of NumPy, float64, from the TensorFlow names."""

    def norm_relu(x, scope):
        gamma, beta, mean, variance = (
            arrays[f"{scope}/BatchNorm/{n}"].astype(np.float64)
            for n in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return np.maximum(0, (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta)

    def composite(x, scope):
        return same_convolution(norm_relu(x, scope), arrays[f"{scope}/kernel"], 1)

    x = same_convolution(faces, arrays["Initial_convolution/kernel"], 2)
    for b in range(blocks):
        for layer in range(layers):
            scope = f"Block_{b}/layer_{layer}"
            new = composite(composite(x, f"{scope}/bottleneck"), f"{scope}/composite_function")
            x = np.concatenate([x, new], axis=-1)
        if b < blocks - 1:
            x = composite(x, f"Transition_after_block_{b}/composite_function")
            n, h, w, c = x.shape
            x = x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
    features = norm_relu(x, "Transition_to_classes").mean(axis=(1, 2))
    return features, features @ arrays["Transition_to_classes/W"] + arrays[
        "Transition_to_classes/bias"
    ]


def test_a_small_network_equals_loops_in_numpy(rng):
    wanted = shapes(**SMALL, size=16)
    arrays = filled(rng, wanted)
    faces = rng.normal(size=(3, 16, 16, 1)).astype("f4")
    variables = traverse_util.unflatten_dict(
        {path: arrays[denseface.tf_name(path)] for path in wanted}
    )
    features, logits = jax.jit(densenet.DenseNet(**SMALL).apply)(variables, faces)
    expected_features, expected_logits = oracle(arrays, faces, layers=2)
    np.testing.assert_allclose(features, expected_features, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(logits, expected_logits, rtol=2e-5, atol=1e-4)
