import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import pretrained, speech, weights
from cmarr_jax.extract.models import data2vec_audio, hubert, wav2vec2, wavlm
from tests.extract.samples import parameters

FLOAT = jnp.dtype("float32")
CONFIG = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-5,
    "feat_extract_norm": "group",
    "conv_dim": [512] * 7,
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "num_buckets": 320,
    "max_bucket_distance": 800,
}
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
DATA2VEC = {"conv_pos_kernel_size": 19, "num_conv_pos_embeddings": 5}


@pytest.mark.parametrize("family, kind, fields, size", [
    (wav2vec2, "wav2vec2", {}, 94_370_816),
    (wav2vec2, "wav2vec2", LARGE | STABLE | {"conv_bias": True}, 315_437_568),
    (hubert, "hubert", {}, 94_370_816),
    (hubert, "hubert", LARGE | STABLE | {"conv_bias": True}, 315_437_568),
    (wavlm, "wavlm", {}, 94_381_040),
    (wavlm, "wavlm", LARGE | STABLE, 315_451_968),
    (data2vec_audio, "data2vec-audio", DATA2VEC, 93_163_520),
    (data2vec_audio, "data2vec-audio", LARGE | DATA2VEC, 313_275_392),
])  # fmt: skip
def test_a_published_model_has_as_many_parameters_as_in_transformers(family, kind, fields, size):
    """Theirs have 768 or 1,024 more, the vector of masked frames, and 128 that weight norm adds."""
    module = family.from_config("", CONFIG | fields | {"model_type": kind}, FLOAT)
    assert parameters(module, *family.tensors(module).inputs) == size
    assert module.receptive_field == 400 and module.num_frames(16_000) == 49


def test_statistics_of_a_batch_norm_become_a_scale_and_a_shift(rng):
    """Some HuBERTs have one before the position embedding."""
    config = CONFIG | {"model_type": "hubert", "conv_pos_batch_norm": True}
    module = hubert.from_config("", config, FLOAT)
    norm = "encoder.pos_conv_embed.batch_norm"
    weight, bias, mean, variance = rng.uniform(0.5, 2, size=(4, 768)).astype(np.float32)
    folded = hubert.tensors(module).adapt(
        {
            f"{norm}.weight": weight,
            f"{norm}.bias": bias,
            f"{norm}.running_mean": mean,
            f"{norm}.running_var": variance,
            f"{norm}.num_batches_tracked": np.array(7),
        }
    )
    x = rng.normal(size=(5, 768))
    wanted = (x - mean) / np.sqrt(variance + 1e-5) * weight + bias
    got = x * folded.pop(f"{norm}.scale") + folded.pop(f"{norm}.shift")
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    assert not folded


@pytest.mark.parametrize("name, prefix, heads", [
    ("hubert", "hubert", ("lm_head.weight", "final_proj.bias", "layer_weights")),
    ("hubert_large", "hubert", ("projector.weight", "classifier.bias")),
    ("wavlm", "wavlm", ("feature_extractor.weight", "tdnn.0.kernel.bias", "objective.weight")),
    ("data2vec_audio", "data2vec_audio", ("lm_head.bias",)),
    ("whisper", "model", ("proj_out.weight", "model.decoder.layers.0.fc1.bias", "classifier.weight")),
])  # fmt: skip
def test_a_whole_checkpoint_with_heads_has_the_same_encoder(tmp_path, name, prefix, heads):
    numpy = pytest.importorskip("safetensors.numpy")
    folder = os.path.join(os.path.dirname(os.path.dirname(__file__)), "golden", name)
    config = pretrained.config(folder)
    family = speech.FAMILIES[config["model_type"]]
    module = family.from_config(folder, config, FLOAT)

    def load(tensors):
        file = str(tmp_path / "model.safetensors")
        numpy.save_file(tensors, file)
        return weights.load(file, module, family.tensors(module))

    held = numpy.load_file(os.path.join(folder, "model.safetensors"))
    bare = {k.removeprefix(f"{prefix}."): v for k, v in held.items()}
    whole = {f"{prefix}.{k}": v for k, v in bare.items()} | dict.fromkeys(heads, np.ones(3))
    jax.tree.map(np.testing.assert_array_equal, load(bare), load(whole))
    with pytest.raises(UserError, match="holds 1 tensors that the model has no place for"):
        load(bare | {"encoder.layers.0.surplus": np.ones(1)})
