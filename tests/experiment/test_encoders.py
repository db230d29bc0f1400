"""A config's encoders must be those that the pack was made with; each mistake is one line."""

import types

import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.experiment import encoders, limits
from cmarr_jax.extract import pretrained
from cmarr_jax.systems.precision import FLOAT32
from tests import tiny
from tests.extract.stand_in import GOLDEN

BERT = f"{GOLDEN}/bert"
TEXT = {
    "encoder": "bert",
    "sha256": pretrained.hashes(BERT),
    "states": [1],
    "layers": "1",
    "layout": "side by side",
    "keep_special_tokens": True,
}


def corpus(recipe=TEXT, modality="text", width=16):
    provenance = {"made_by": "tests"}
    if recipe is not None:
        facts = {"fingerprint": "", "source": recipe, "stored_as": "float32"}
        provenance = {"made_by": "cmarr_jax.extract", "modalities": {modality: facts}}
    features = {"text": np.zeros((2, 5, width)), "speech": np.zeros((2, 5, width))}
    return types.SimpleNamespace(
        provenance=provenance, modalities=tuple(features), features=features
    )


def make(recipe=TEXT, modality="text", width=16, **fields):
    own = {f"encoders.{modality}.{name}": value for name, value in fields.items()}
    config = tiny.config(**own)
    encoders.own_lengths(config)
    return encoders.open_encoders(config, corpus(recipe, modality, width), FLOAT32)(None)


def test_the_layers_above_what_the_pack_holds():
    (made,) = make(model=BERT)
    assert (made.modality, made.dim, made.positions) == ("text", 16, 512)
    assert set(made.params) == {"layer_1"} and made.facts["start"] == 1
    assert made.depths["layer_1"]["query"]["kernel"] == 0
    (made,) = make(TEXT | {"states": [0]}, model=BERT, from_layer=0, learning_rate=0.0)
    assert set(made.params) == {"layer_0", "layer_1"} and made.learning_rate == 0
    assert made.depths["layer_0"]["query"]["kernel"] == 1
    assert make() == ()


@pytest.mark.parametrize(
    "recipe, fields, words",
    [
        (None, {}, "does not say how its text was made"),
        (TEXT | {"states": [0, 1]}, {}, "holds states [0, 1], wanted one below the last"),
        ({k: v for k, v in TEXT.items() if k != "states"}, {}, "holds the last layer"),
        (TEXT, {"from_layer": 0}, "from_layer=0: the pack holds state 1"),
        (TEXT | {"states": [2]}, {}, "from_layer=2: wanted 0 to 1"),
        (TEXT | {"keep_special_tokens": False}, {}, "lacks the marks at its ends"),
        (TEXT | {"encoder": "roberta"}, {}, "not what the pack was made with: encoder is bert"),
        (TEXT | {"sha256": {"x": "y"}}, {}, "not what the pack was made with: sha256"),
        (TEXT, {"model": f"{GOLDEN}/vit"}, "vision model's upper layers"),
        (TEXT, {"model": "no/such/folder"}, "no/such/folder"),
        (TEXT, {"mix": True}, "wanted without"),
    ],
)
def test_a_pack_and_an_encoder_that_do_not_fit_are_refused(recipe, fields, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError) as error:
        make(recipe, **{"model": BERT} | fields)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_mix_wants_several_layers_side_by_side():
    recipe = TEXT | {"states": [0, 1, 2], "layers": "all"}
    (made,) = make(recipe, width=48, mix=True)
    assert made.dim == 16 and made.params["weights"].shape == (3,) and not made.positions
    for other in (None, TEXT | {"layout": "mean"}):
        with pytest.raises(UserError, match="is not several layers side by side"):
            make(other, mix=True)


@pytest.mark.parametrize(
    "field, value",
    [("data.align", "interp"), ("data.quantiles", True), ("data.statistics", "mean_max")],
)
def test_features_that_move_are_pooled_and_normalised_by_mean(field, value):
    config = tiny.config(**{"encoders.text.model": BERT, field: value})
    with pytest.raises(UserError, match=f"--config.{field}={value}: wanted .* beside"):
        encoders.own_lengths(config)


@pytest.mark.parametrize(
    "field, value", [("max_positions", 2), ("layer_decay", 0.0), ("learning_rate", -1.0)]
)
def test_numbers_with_which_nothing_is_trained(field, value):
    with pytest.raises(UserError, match=f"--config.encoders.text.{field}={value}: wanted"):
        limits.check(tiny.config(**{f"encoders.text.{field}": value}))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"from_layer": 1}, "from_layer=1: nothing of text is trained"),
        ({"learning_rate": 3e-5}, "learning_rate=3e-05: nothing of text is trained"),
        ({"mix": True, "warmup": 0.3}, "warmup=0.3: a mix has the system's"),
    ],
)
def test_a_field_that_nothing_would_read_is_refused(fields, words):
    with pytest.raises(UserError) as error:
        encoders.own_lengths(tiny.config(**{f"encoders.text.{k}": v for k, v in fields.items()}))
    assert words in str(error.value) and "--config.encoders.text.model=" in str(error.value)
