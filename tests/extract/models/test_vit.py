"""ViT, CLIP's vision tower and DINOv2 against what PyTorch computed from the same files."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import pretrained, weights
from cmarr_jax.extract.models import clip, dinov2, vit
from tests.extract.samples import variables

pytest.importorskip("safetensors")

FAMILIES = {"vit": vit, "clip": clip, "dinov2": dinov2}
GOLDEN = os.path.join(os.path.dirname(os.path.dirname(__file__)), "golden")
AS_THEY_ARE = np.ones(3, np.float32), np.zeros(3, np.float32)


def opened(name, dtype="float32"):
    folder = os.path.join(GOLDEN, name)
    file = os.path.join(folder, "config.json")
    module = FAMILIES[name].from_config(file, pretrained.config(folder), jnp.dtype(dtype))
    names = FAMILIES[name].tensors(module)
    return module, weights.load(os.path.join(folder, "model.safetensors"), module, names)


def expected(name):
    """Pixels `[B, S, S, 3]` and states `[B, layers + 1, D]`."""
    with np.load(os.path.join(GOLDEN, name, "expected.npz")) as f:
        return f["pixels"].transpose(0, 2, 3, 1), f["states"], f.get("wide_states")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_state_is_the_published_implementations(name):
    module, params = opened(name)
    pixels, states, wide_states = expected(name)

    def error(pixels, states):
        found = np.stack(jax.jit(module.apply)(params, pixels, *AS_THEY_ARE), axis=1)
        assert found.shape == states.shape and found.dtype == np.float32
        apart = np.linalg.norm(found - states, axis=-1) / np.linalg.norm(states, axis=-1)
        return apart.max()

    assert error(pixels, states) < 1e-5
    if wide_states is not None:  # of larger pictures, for which positions are interpolated
        wide = np.pad(pixels, ((0, 0), (0, 16), (0, 16), (0, 0)))
        assert error(wide, wide_states) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_who_stands_beside_a_picture_does_not_matter_and_jit_changes_nothing(name):
    module, params = opened(name)
    pixels, _, _ = expected(name)
    together = jax.jit(module.apply)(params, pixels, *AS_THEY_ARE)[-1]
    np.testing.assert_allclose(
        module.apply(params, pixels[1:2], *AS_THEY_ARE)[-1][0], together[1], atol=1e-5
    )


def test_bfloat16_stays_near_float32_and_returns_float32():
    module, params = opened("vit")
    pixels, _, _ = expected("vit")
    exact = jax.jit(module.apply)(params, pixels, *AS_THEY_ARE)[-1]
    rounded = jax.jit(opened("vit", "bfloat16")[0].apply)(params, pixels, *AS_THEY_ARE)[-1]
    assert rounded.dtype == jnp.float32
    assert 1e-4 < np.linalg.norm(exact - rounded) / np.linalg.norm(exact) < 5e-2


def test_bytes_are_scaled_and_shifted_by_colour(rng):
    module = vit.VisionTransformer(16, 8, 8, 1, 2, 8, 1e-6, jnp.dtype("float32"))
    pictures = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    scale, shift = np.float32([0.01, 0.02, 0.03]), np.float32([-1, 0, 1])
    params = variables(module, pictures, scale, shift)
    plain = module.apply(params, pictures * scale + shift, *AS_THEY_ARE)
    np.testing.assert_allclose(module.apply(params, pictures, scale, shift)[-1], plain[-1], 1e-5)


def test_the_base_model_has_its_published_number_of_parameters():
    """ViT-Base/16 at 224: 85.8 million, as the paper and every model card say."""
    module = vit.VisionTransformer(224, 16, 768, 12, 12, 3072, 1e-12, jnp.dtype("float32"))
    picture = np.zeros((1, 224, 224, 3), np.uint8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), picture, *AS_THEY_ARE)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 85_798_656


def test_positions_are_interpolated_by_cubic_convolution():
    """Its defining properties: a line stays a line inside, and the same size changes nothing."""
    line = np.broadcast_to(np.arange(8.0)[:, None, None], (8, 8, 1)).reshape(1, 64, 1)
    positions = jnp.concatenate([jnp.full((1, 1, 1), 9.0), jnp.float32(line)], axis=1)
    assert vit.resized(positions, 8) is positions
    grown = vit.resized(positions, 16)
    assert grown.shape == (1, 257, 1) and grown[0, 0, 0] == 9
    rows = grown[0, 1:, 0].reshape(16, 16)
    np.testing.assert_allclose(rows[4:12, 3], (np.arange(4, 12) + 0.5) / 2 - 0.5, atol=0.05)
    np.testing.assert_allclose(rows[:, 3], rows[:, 12], atol=1e-5)


def test_a_vision_tower_alone_is_read_as_in_a_whole_clip(tmp_path):
    import safetensors.numpy

    module, params = opened("clip")
    file = os.path.join(GOLDEN, "clip", "model.safetensors")
    whole = safetensors.numpy.load_file(file)
    tower = {
        name.removeprefix("vision_model."): array
        for name, array in whole.items()
        if name.startswith("vision_model.")
    }
    assert 0 < len(tower) < len(whole)
    safetensors.numpy.save_file(tower, tmp_path / "tower.safetensors")
    alone = weights.load(str(tmp_path / "tower.safetensors"), module, clip.tensors(module))
    jax.tree.map(np.testing.assert_array_equal, alone, params)
    with open(os.path.join(GOLDEN, "clip", "config.json"), encoding="utf-8") as f:
        config = pretrained.config(os.path.join(GOLDEN, "clip"))["vision_config"]
        assert json.load(f)["model_type"] == "clip"
    assert clip.from_config("config.json", config, jnp.dtype("float32")) == module


@pytest.mark.parametrize(
    "name, changed, said",
    [
        ("vit", {"num_channels": 1}, "num_channels is 1, wanted 3"),
        ("vit", {"qkv_bias": False}, "qkv_bias is False, wanted True"),
        ("vit", {"hidden_act": "swish"}, "hidden_act is 'swish', wanted one of gelu, "),
        ("vit", {"patch_size": [8, 4]}, r"patch_size \[8, 4\]; wanted a side in pixels"),
        ("vit", {"image_size": 4}, "image_size is 4 and patch_size 8"),
        ("dinov2", {"use_swiglu_ffn": True}, "use_swiglu_ffn is True, wanted False"),
    ],
)
def test_a_config_that_the_module_cannot_obey_is_one_line(name, changed, said):
    config = pretrained.config(os.path.join(GOLDEN, name)) | changed
    with pytest.raises(UserError, match=f"^config.json: .*{said}") as error:
        FAMILIES[name].from_config("config.json", config, jnp.dtype("float32"))
    assert "\n" not in str(error.value)
