import json
import os
import shutil

import jax.numpy as jnp
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import pretrained, speech
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
        asked.append([p for p in allow_patterns if "model" in p])
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
