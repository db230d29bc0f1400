import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import pretrained, weights
from cmarr_jax.extract.models import bert, deberta, distilbert, mpnet, roberta, wav2vec2

safetensors = pytest.importorskip("safetensors.numpy")
GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
F32 = jnp.dtype("float32")
KINDS = {
    "bert": bert,
    "wav2vec2": wav2vec2,
    "roberta": roberta,
    "deberta-v2": deberta,
    "distilbert": distilbert,
    "mpnet": mpnet,
}
# Kind -> tensors of the heads with which it is published.
HEADS = {
    "bert": ("cls.predictions.bias", "classifier.weight"),
    "wav2vec2": ("quantizer.codevectors",),
    "roberta": ("lm_head.dense.weight", "classifier.out_proj.bias", "roberta.pooler.dense.bias"),
    "deberta-v2": (
        "deberta.embeddings.position_embeddings.weight", "lm_predictions.lm_head.dense.weight",
        "mask_predictions.classifier.weight", "pooler.dense.weight", "cls.predictions.bias",
    ),
    "distilbert": ("vocab_transform.weight", "vocab_projector.bias", "pre_classifier.weight"),
    "mpnet": ("lm_head.layer_norm.weight", "mpnet.pooler.dense.weight", "mpnet.embeddings.position_ids"),
}  # fmt: skip
POSITION = "encoder.pos_conv_embed.conv"


def module_of(kind):
    folder = os.path.join(GOLDEN, kind)
    return KINDS[kind].from_config("config.json", pretrained.config(folder), F32)


def tensors_of(kind):
    return safetensors.load_file(os.path.join(GOLDEN, kind, "model.safetensors"))


def load(kind, tensors, tmp_path):
    file = str(tmp_path / "model.safetensors")
    safetensors.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, file)
    module = module_of(kind)
    return weights.load(file, module, KINDS[kind].tensors(module))


def assert_same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=0, **tolerance), a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_and_heads_make_no_difference(kind, tmp_path):
    tensors = tensors_of(kind)
    plain = load(kind, tensors, tmp_path)
    prefix = kind.removesuffix("-v2")
    prefixed = {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
    assert_same(plain, load(kind, prefixed | dict.fromkeys(HEADS[kind], np.ones(3)), tmp_path))


def test_layer_norms_of_the_first_bert_checkpoints_have_their_old_names(tmp_path):
    tensors = tensors_of("bert")
    old = {
        re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name)): tensor
        for name, tensor in tensors.items()
    }  # fmt: skip
    assert old.keys() != tensors.keys()
    assert_same(load("bert", old, tmp_path), load("bert", tensors, tmp_path))


def test_both_spellings_of_weight_norm_and_the_folded_kernel_agree(tmp_path):
    tensors = tensors_of("wav2vec2")
    new = f"{POSITION}.parametrizations.weight.original"
    g, v = tensors.pop(f"{new}0"), tensors.pop(f"{new}1")
    assert g.shape == (1, 1, 16)
    folded = np.zeros(v.shape)
    for k in range(v.shape[2]):  # one norm a tap
        folded[..., k] = g[0, 0, k] * v[..., k] / np.sqrt(np.sum(np.float64(v[..., k]) ** 2))
    spellings = [
        {f"{new}0": g, f"{new}1": v},
        {f"{POSITION}.weight_g": g, f"{POSITION}.weight_v": v},
        {f"{POSITION}.weight": np.float32(folded)},
    ]
    first, second, third = (load("wav2vec2", tensors | s, tmp_path) for s in spellings)
    assert_same(first, second)
    kernel = third["params"]["position_0"]["kernel"]
    assert kernel.shape == (16, 4, 16)
    np.testing.assert_allclose(kernel, folded.transpose(2, 1, 0), rtol=1e-7)
    np.testing.assert_allclose(first["params"]["position_0"]["kernel"], kernel, rtol=2e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_float32(dtype, tmp_path):
    tensors = {k: v.astype(jnp.dtype(dtype)) for k, v in tensors_of("bert").items()}
    params = load("bert", tensors, tmp_path)["params"]
    assert {x.dtype for x in jax.tree.leaves(params)} == {F32}
    wanted = tensors["encoder.layer.1.output.dense.weight"].astype(np.float32).T
    np.testing.assert_array_equal(params["layer_1"]["contract"]["kernel"], wanted)


CONV = "feature_extractor.conv_layers.3.conv.weight"
QUERY = "encoder.layer.0.attention.self.query.bias"


@pytest.mark.parametrize(
    "kind, change, match",
    [
        ("bert", lambda t: t.pop(QUERY), f"lacks 1 of 37 tensors, among them {QUERY}"),
        ("bert", lambda t: t.update({"encoder.layer.2.x": np.ones(1)}), "holds 1 tensors .*encoder.layer.2.x"),
        ("bert", lambda t: t.update({QUERY: np.ones(17)}), rf"{QUERY} is \(17,\) .*\(16,\)"),
        ("wav2vec2", lambda t: t.pop(CONV), f"lacks 1 of 49 tensors, among them {CONV}"),
        ("wav2vec2", lambda t: t.update({CONV: np.ones((8, 3, 8))}), r"is \(8, 3, 8\) .*\(3, 8, 8\)"),
        ("wav2vec2", lambda t: t.update({"adapter.x": np.ones(1)}), "holds 1 tensors .*adapter.x"),
        ("wav2vec2", lambda t: t.pop(f"{POSITION}.parametrizations.weight.original0"), f"lacks .*{POSITION}.weight"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_shape_is_refused_in_one_line(tmp_path, kind, change, match):
    tensors = tensors_of(kind)
    change(tensors)
    with pytest.raises(UserError, match=match) as error:
        load(kind, tensors, tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    file = tmp_path / "model.safetensors"
    with open(os.path.join(GOLDEN, "bert", "model.safetensors"), "rb") as f:
        file.write_bytes(f.read()[:5_000])
    with pytest.raises(UserError, match="not a whole safetensors file") as error:
        weights.load(str(file), module_of("bert"), bert.tensors(module_of("bert")))
    assert "\n" not in str(error.value)
