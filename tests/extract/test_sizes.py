"""Ranges of a config's numbers; the command's words for them are in test_malformed_snapshots.py."""

import json
import math
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmarr_jax.errors import UserError
from cmarr_jax.extract import sizes
from cmarr_jax.extract.encoder import open_encoder
from cmarr_jax.extract.models import bert, wav2vec2

FAMILIES = {"bert": bert, "wav2vec2": wav2vec2}
NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(-2, 40))
ODD = st.one_of(
    NUMBERS, st.none(), st.booleans(), st.text(max_size=3), st.lists(NUMBERS, max_size=7),
    st.dictionaries(st.text(max_size=2), NUMBERS, max_size=2), st.just([[1]]),
)  # fmt: skip

KINDS = (
    *("bert", "roberta", "xlm-roberta", "deberta-v2", "distilbert", "mpnet", "wav2vec2", "hubert"),
    *("wavlm", "data2vec-audio", "whisper", "vit", "clip", "dinov2"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_of_each_published_kind_pass(kind):
    transformers = pytest.importorskip("transformers")
    sizes.check("config.json", transformers.CONFIG_MAPPING[kind]().to_dict())


@pytest.mark.parametrize(
    "config, match",
    [
        ({"vision_config": {"hidden_size": 0}}, "vision_config.hidden_size is 0"),
        ({"d_model": 384, "encoder_attention_heads": 7}, "d_model is 384 and encoder_attention_heads 7"),
        ({"dim": 768, "n_heads": 5}, "dim is 768 and n_heads 5"),
        ({"n_layers": 1001}, "n_layers is 1001; wanted a whole number, 1 to 1000"),
        ({"image_size": [224, 0]}, "image_size is 0"),
        ({"patch_size": "16"}, "patch_size is '16'"),
        ({"layer_norm_eps": math.inf}, "layer_norm_eps is inf"),
        ({"layer_norm_eps": True}, "layer_norm_eps is True"),
        ({"conv_dim": [8], "conv_kernel": [10]}, "wanted a list of sizes each"),
        ({"conv_dim": [8], "conv_kernel": [20_000], "conv_stride": [5]}, "for 20000 samples"),
    ],
)  # fmt: skip
def test_what_is_no_size_is_named(config, match):
    with pytest.raises(UserError, match=match) as error:
        sizes.check("config.json", config)
    assert str(error.value).startswith("config.json: ")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "wav2vec2"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_a_field_holds_is_a_network_or_one_line(kind, tmp_path_factory, data):
    """With the weights beside it; each value in each field was tried once by hand."""
    pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    golden = os.path.join(os.path.dirname(__file__), "golden", kind)
    folder = tmp_path_factory.mktemp(kind)
    for name in os.listdir(golden):
        shutil.copy(os.path.join(golden, name), folder)
    config = json.loads((folder / "config.json").read_text())
    field = data.draw(st.sampled_from(sorted(config)))
    (folder / "config.json").write_text(json.dumps(config | {field: data.draw(ODD)}))
    said = ""
    try:
        open_encoder(str(folder), FAMILIES, layers="last", dtype="float32")
    except UserError as e:
        said = str(e)
    assert "\n" not in said


def test_the_samples_that_a_frame_sees():
    sound = {
        "conv_dim": [512] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    }
    sizes.check("config.json", sound)
    assert sizes.receptive_field(sound["conv_kernel"], sound["conv_stride"]) == 400
