import json
import os
import shutil
import sys

import jax.numpy as jnp
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import pretrained
from cmarr_jax.extract.models import bert, deberta, distilbert, mpnet, roberta, wav2vec2

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
FROM_CONFIG = {
    "bert": bert.from_config,
    "wav2vec2": wav2vec2.from_config,
    "deberta-v2": deberta.from_config,
    "distilbert": distilbert.from_config,
    "roberta": roberta.from_config,
    "mpnet": mpnet.from_config,
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
        ("wav2vec2", {"do_stable_layer_norm": True}, "do_stable_layer_norm is True, wanted False"),
        ("wav2vec2", {"feat_extract_norm": "layer"}, "feat_extract_norm is 'layer', wanted 'group'"),
        ("wav2vec2", {"add_adapter": True}, "add_adapter is True"),
        ("wav2vec2", {"model_type": "hubert"}, "model_type is 'hubert', wanted 'wav2vec2'"),
        ("bert", {"hidden_act": "silu"}, "hidden_act is 'silu', wanted 'gelu' or"),
        ("bert", {"is_decoder": True}, "is_decoder is True, wanted False"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("bert", {"model_type": "nonesuch"}, "nonesuch"),
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


def test_weights_in_shards_tell_how_to_convert_them(tmp_path):
    folder = edited("bert", tmp_path)
    os.rename(f"{folder}/model.safetensors", f"{folder}/model-00001-of-00002.safetensors")
    with pytest.raises(
        UserError,
        match=r"no model.safetensors or pytorch_model.bin, .*from_pretrained\('.*'\).save_pre",
    ):
        pretrained.folder(folder)


@pytest.mark.parametrize("names, wanted", [
    (("model.safetensors", "pytorch_model.bin"), "model.safetensors"),
    (("pytorch_model.bin",), "pytorch_model.bin"),
])  # fmt: skip
def test_the_weights_that_are_there_are_read_and_hashed(tmp_path, names, wanted):
    for name in ("config.json", *names):
        (tmp_path / name).write_text(name)
    assert os.path.basename(pretrained.weights(str(tmp_path))) == wanted
    assert sorted(pretrained.hashes(str(tmp_path))) == ["config.json", wanted]


@pytest.mark.parametrize("published", ["model.safetensors", "pytorch_model.bin"])
def test_of_a_name_on_the_hub_one_file_of_weights_is_asked_for_at_a_time(
    tmp_path, monkeypatch, published
):
    import huggingface_hub

    asked = []

    def download(model, allow_patterns):
        asked.append([p for p in allow_patterns if p.endswith(("model.safetensors", ".bin"))])
        (tmp_path / "config.json").write_text("{}")
        if published in allow_patterns:
            (tmp_path / published).write_text("x")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert pretrained.folder("some/model") == str(tmp_path)
    assert asked == [["model.safetensors"], ["pytorch_model.bin"]][: 1 + published.endswith("bin")]


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


def test_a_model_that_is_not_to_be_had_is_one_line(monkeypatch):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host\nwith a long tail")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        UserError, match=r"^some/model: no such folder, .*\(no route to host\)"
    ) as e:
        pretrained.folder("some/model")
    assert "\n" not in str(e.value)


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match="--dtype=float16: wanted float32 or bfloat16"):
        pretrained.compute_dtype("float16")
