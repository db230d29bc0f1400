import json
import os
import shutil

import jax.numpy as jnp
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import pretrained
from cmarr_jax.extract.models import bert, wav2vec2

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
FROM_CONFIG = {"bert": bert.from_config, "wav2vec2": wav2vec2.from_config}


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


def test_weights_that_are_pickled_tell_how_to_convert_them(tmp_path):
    folder = edited("bert", tmp_path)
    os.rename(f"{folder}/model.safetensors", f"{folder}/pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"no model.safetensors, .*from_pretrained\('.*'\).save_pre"
    ):
        pretrained.folder(folder)


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
