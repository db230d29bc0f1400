import json
import os
import shutil
import sys

import jax.numpy as jnp
import pytest

from cmarr_jax import extract
from cmarr_jax.errors import UserError
from cmarr_jax.extract import checkpoint, pretrained, speech
from cmarr_jax.extract.models import bert, deberta, distilbert, mpnet, roberta

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
FROM_CONFIG = {
    "bert": bert.from_config,
    "deberta-v2": deberta.from_config,
    "distilbert": distilbert.from_config,
    "roberta": roberta.from_config,
    "mpnet": mpnet.from_config,
    **{kind.replace("-", "_"): family.from_config for kind, family in speech.FAMILIES.items()},
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
        ("bert", {"hidden_act": "silu"}, "hidden_act is 'silu', wanted 'gelu' or"),
        ("bert", {"is_decoder": True}, "is_decoder is True, wanted False"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("distilbert", {"activation": "swish"}, "activation is 'swish'"),
        ("mpnet", {"relative_attention_num_buckets": 64}, "num_buckets is 64, wanted 32"),
        ("deberta-v2", {"relative_attention": False}, "relative_attention is False, wanted True"),
        ("deberta-v2", {"pos_att_type": "p2c"}, r"pos_att_type is \['p2c'\], wanted \['p2c', 'c2p'\]"),
        ("deberta-v2", {"pos_att_type": None}, "pos_att_type is None"),
        ("deberta-v2", {"norm_rel_ebd": "batch"}, "norm_rel_ebd is 'batch', wanted 'none' or"),
        ("deberta-v2", {"conv_kernel_size": 4}, "conv_kernel_size is 4, wanted an odd number"),
        ("deberta-v2", {"conv_kernel_size": 3, "conv_groups": 2}, "conv_groups is 2, wanted 1"),
        ("deberta-v2", {"conv_act": "mish"}, "conv_act is 'mish'"),
        ("deberta-v2", {"position_buckets": "8"}, "position_buckets is '8', wanted a whole number from -1"),
        ("deberta-v2", {"position_buckets": 1}, "position_buckets is 1, wanted 2 to 317"),
        ("deberta-v2", {"position_buckets": 500}, "position_buckets is 500, wanted 2 to 317"),
        ("deberta-v2", {"max_relative_positions": -7}, "max_relative_positions is -7"),
        ("deberta-v2", {"share_att_key": "yes"}, "share_att_key is 'yes', wanted True or False"),
        ("deberta-v2", {"conv_kernel_size": None}, "conv_kernel_size is None"),
        ("roberta", {"pad_token_id": None}, "pad_token_id is None, wanted a whole number from 0 to 158"),
        ("roberta", {"pad_token_id": 161}, "pad_token_id is 161, wanted"),
        ("deberta-v2", {"attention_head_size": 9}, "attention_head_size is 9, wanted 8"),
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


def test_a_sentencepiece_model_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    folder = edited("deberta-v2", tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r"spm.model: needs sentencepiece; pip install -r req"):
        pretrained.tokenizer(folder, 100)
    monkeypatch.undo()
    pytest.importorskip("sentencepiece")
    for content in (b"version https://git-lfs.github.com/spec/v1\noid sha256:c6\n", b""):
        with open(f"{folder}/spm.model", "wb") as f:
            f.write(content)
        with pytest.raises(
            UserError, match=r"spm\.model: not a whole SentencePiece model"
        ) as error:
            pretrained.tokenizer(folder, 100)
        assert "\n" not in str(error.value)


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
