import json
import os
import shutil
import sys

import jax.numpy as jnp
import pytest

from cmarr_jax import extract
from cmarr_jax.errors import UserError
from cmarr_jax.extract import checkpoint, pretrained, speech
from cmarr_jax.extract.models import bert

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
FROM_CONFIG = {"bert": bert.from_config} | {
    kind.replace("-", "_"): family.from_config for kind, family in speech.FAMILIES.items()
}


def edited(kind, tmp_path, **fields):
    folder = str(tmp_path / kind)
    shutil.copytree(os.path.join(GOLDEN, kind), folder)
    file = os.path.join(folder, "config.json")
    with open(file) as f:
        config = json.load(f)
    with open(file, "w") as f:
        json.dump(config | fields, f)
    return folder


@pytest.mark.parametrize(
    "kind, fields, match",
    [
        ("wav2vec2", {"feat_extract_norm": "batch"}, "feat_extract_norm is 'batch', wanted 'group' or 'layer'"),
        ("wav2vec2", {"add_adapter": True}, "add_adapter is True, wanted False"),
        ("wav2vec2", {"adapter_attn_dim": 16}, "adapter_attn_dim is 16, wanted None"),
        ("wav2vec2", {"hidden_act": "relu"}, "hidden_act is 'relu', wanted 'gelu'"),
        ("hubert", {"feat_extract_activation": "relu"}, "feat_extract_activation is 'relu', wanted 'gelu'"),
        ("wavlm", {"add_adapter": True}, "add_adapter is True, wanted False"),
        ("wavlm", {"num_buckets": 2}, "num_buckets is 2 and max_bucket_distance 20; wanted 4 or more"),
        ("wavlm", {"max_bucket_distance": 3}, "num_buckets is 12 and max_bucket_distance 3; wanted"),
        ("data2vec_audio", {"add_adapter": True}, "add_adapter is True, wanted False"),
        ("whisper", {"activation_function": "silu"}, "activation_function is 'silu', wanted gelu, "),
        ("wav2vec2", {"model_type": "hubert"}, "model_type is 'hubert', wanted 'wav2vec2'"),
        ("bert", {"model_type": "roberta"}, "model_type is 'roberta', wanted 'bert'"),
        ("bert", {"hidden_act": "relu"}, "hidden_act is 'relu', wanted 'gelu'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("bert", {"model_type": "nonesuch"}, "nonesuch"),
    ],
)  # fmt: skip
def test_another_kind_of_model_is_refused_in_one_line(tmp_path, kind, fields, match):
    folder = edited(kind, tmp_path, **fields)
    file = os.path.join(folder, "config.json")
    with pytest.raises(UserError, match=match) as error:
        FROM_CONFIG[kind](file, pretrained.config(folder), jnp.dtype("float32"))
    assert "\n" not in str(error.value) and file in str(error.value)


@pytest.mark.parametrize("form", checkpoint.FORMS)
def test_the_weights_that_come_first_are_read_and_hashed(tmp_path, form):
    index = {"weight_map": {"x": "a.safetensors" if "safetensors" in form else "a.bin"}}
    names = checkpoint.FORMS[checkpoint.FORMS.index(form) :]
    for name in ("config.json", "a.safetensors", "a.bin", *names):
        (tmp_path / name).write_text(json.dumps(index))
    assert os.path.basename(pretrained.weights(str(tmp_path))) == form
    shards = {*index["weight_map"].values()} if form.endswith(".json") else set()
    assert {*pretrained.hashes(str(tmp_path))} == {"config.json", form, *shards}


@pytest.mark.parametrize("file, content", [
    ("preprocessor_config.json", {"sampling_rate": 8000, "do_normalize": False}),
    ("processor_config.json", {"feature_extractor": {"sampling_rate": 8000, "do_normalize": False}}),
    ("config.json", {"sampling_rate": 8000, "do_normalize": False}),
])  # fmt: skip
def test_what_a_model_says_of_its_sound_is_read_wherever_it_says_it(tmp_path, file, content):
    (tmp_path / "config.json").write_text("{}")
    assert pretrained.sound(str(tmp_path)) == {}
    (tmp_path / file).write_text(json.dumps(content))
    assert pretrained.sound(str(tmp_path)) == {"sampling_rate": 8000, "do_normalize": False}


def test_a_damaged_preprocessor_is_one_line(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match=r"preprocessor_config.json: not JSON") as error:
        pretrained.sound(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_config_is_no_model(tmp_path):
    with pytest.raises(UserError, match=r"no config.json; wanted a folder with a Hugging Face"):
        pretrained.folder(str(tmp_path))


def test_without_the_hubs_client_a_name_is_one_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "cmarr_jax.extract.hub", raising=False)
    monkeypatch.delattr(extract, "hub", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        UserError, match=r"^some/model: no such folder, .*needs huggingface_hub; pip"
    ):
        pretrained.folder("some/model")


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match="--dtype=float16: wanted float32 or bfloat16"):
        pretrained.compute_dtype("float16")
