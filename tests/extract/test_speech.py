import json
import os
import shutil

import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import audio, speech
from cmarr_jax.extract.source import Utterance
from tests.extract.samples import CLIPS, clip

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
MODEL = os.path.join(GOLDEN, "wav2vec2")
MODELS = (
    *("data2vec_audio", "hubert", "hubert_large", "wav2vec2", "wav2vec2_large", "wavlm"),
    *("wavlm_large", "whisper"),
)


def utterance(wav):
    return Utterance("u", "1", "1F", "", "g", None, wav, None, None, None, None)


@pytest.fixture(scope="module")
def source():
    return speech.source(MODEL, max_seconds=2.0, dtype="float32")


@pytest.fixture(scope="module")
def expected():
    return np.load(os.path.join(MODEL, "expected.npz"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wav")
    for number, length in enumerate([*CLIPS, 40_000]):
        file = str(folder / f"{number}.wav")
        soundfile.write(file, clip(number, length), 16_000, subtype="FLOAT")
    return [str(folder / f"{number}.wav") for number in range(len(CLIPS) + 1)]


@pytest.fixture(scope="module")
def items(files, source):
    loaded = [source.load(utterance(file)) for file in files[: len(CLIPS)]]
    assert {x.status for x in loaded} == {"ok"}
    return [x.item for x in loaded]


@pytest.mark.parametrize("name", MODELS)
def test_every_state_of_a_padded_batch_equals_torch_on_each_clip_alone(name, files):
    source = speech.source(os.path.join(GOLDEN, name), max_seconds=3, dtype="float32", layers="all")
    wanted = np.load(os.path.join(GOLDEN, name, "expected.npz"))
    count = sum(key.startswith("states") for key in wanted)
    items = [source.load(utterance(file)).item for file in files[:count]]
    bucket = source.bucket(max(items, key=len))
    assert bucket > max(map(len, items)) and source.batch_size(bucket) > count
    for number, features in enumerate(source.encode(bucket, items)):
        states = wanted[f"states_{number}"]
        assert features.dtype == np.float32
        assert features.shape == (states.shape[1], states.shape[0] * states.shape[2])
        for ours, theirs in zip(np.split(features, len(states), axis=1), states, strict=True):
            assert np.linalg.norm(ours - theirs) <= 5e-6 * np.linalg.norm(theirs)


def test_a_clip_is_the_same_in_every_batch_and_bucket(source, items):
    together = source.encode(32_000, items)
    for number, bucket in ((0, CLIPS[0]), (1, CLIPS[1]), (1, 24_000), (2, 24_000)):
        (alone,) = source.encode(bucket, [items[number]])
        assert np.linalg.norm(together[number] - alone) <= 1e-5 * np.linalg.norm(alone)


def test_clips_are_normalised_alone_before_padding(items, expected):
    for number, item in enumerate(items):
        np.testing.assert_allclose(item[:400], expected[f"samples_{number}"], atol=2e-6)
        assert abs(item.mean()) < 1e-6 and abs(item.std() - 1) < 1e-5


def test_whisper_sees_whole_windows_and_gives_the_frames_of_the_clip(files):
    source = speech.source(os.path.join(GOLDEN, "whisper"), max_seconds=2.1, dtype="float32")
    assert [source.bucket(np.zeros(n)) for n in (400, 16_000, 16_001)] == [32_000, 32_000, 32_000]
    assert source.bucket(np.zeros(33_600)) == 48_000
    loaded = source.load(utterance(files[-1]))
    assert loaded.status == "truncated" and len(loaded.item) == 33_600
    (features,) = source.encode(48_000, [loaded.item])
    assert features.shape == (105, 16)
    np.testing.assert_allclose(loaded.item, clip(len(CLIPS), 33_600), atol=1e-7)  # as it is


def test_the_source_describes_itself(source, tmp_path):
    assert (source.modality, source.dim, source.unit) == ("speech", 16, "s of audio")
    assert set(source.recipe["sha256"]) == {"config.json", "model.safetensors"}
    file = str(tmp_path / "long.wav")
    soundfile.write(file, np.ones(48_000), 16_000)
    assert source.amount(utterance(file)) == 2.0
    assert source.amount(utterance(None)) == 0.0
    assert source.bucket(np.zeros(400)) == source.bucket(np.zeros(32_000)) == 32_000


def test_another_option_or_file_is_another_recipe(source, tmp_path):
    assert speech.source(MODEL, max_seconds=1.0, dtype="float32").recipe != source.recipe
    other = tmp_path / "m"
    shutil.copytree(MODEL, other)
    config = other / "config.json"
    config.write_text(config.read_text() + "\n")
    assert speech.source(str(other), max_seconds=2.0, dtype="float32").recipe != source.recipe


@pytest.mark.parametrize("seconds", [0.5, 61.0, float("nan")])
def test_a_senseless_length_is_refused(seconds):
    with pytest.raises(UserError, match=r"--max-seconds=.*wanted 1 to 60"):
        speech.source(MODEL, max_seconds=seconds, dtype="float32")


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr(audio.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^speech needs soundfile; pip install -r requirements-ex"):
        speech.source(MODEL, max_seconds=2.0, dtype="float32")


def model_that_says(tmp_path, **fields):
    shutil.copytree(MODEL, tmp_path / "m")
    (tmp_path / "m/preprocessor_config.json").write_text(json.dumps(fields))
    return str(tmp_path / "m")


@pytest.mark.parametrize("rate", [8_000, 44_100, "16000", None])
def test_a_model_of_another_sampling_rate_is_refused(tmp_path, rate):
    folder = model_that_says(tmp_path, sampling_rate=rate)
    with pytest.raises(UserError, match=rf"made for sound of {rate} Hz \(sampling_rate\)") as error:
        speech.source(folder, max_seconds=2.0, dtype="float32")
    assert "\n" not in str(error.value)


def test_what_the_model_says_of_normalising_is_obeyed_and_part_of_the_recipe(tmp_path, source):
    folder = model_that_says(tmp_path, sampling_rate=16_000, do_normalize=False)
    made = speech.source(folder, max_seconds=2.0, dtype="float32")
    assert made.recipe == source.recipe | {"normalised": False}
    file = str(tmp_path / "a.wav")
    soundfile.write(file, clip(0, 5_000), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(made.load(utterance(file)).item, clip(0, 5_000), atol=1e-7)


def test_a_model_that_says_what_is_done_anyhow_keeps_its_recipe(tmp_path, source):
    folder = model_that_says(tmp_path, sampling_rate=16_000, do_normalize=True)
    assert speech.source(folder, max_seconds=2.0, dtype="float32").recipe == source.recipe


@pytest.mark.parametrize("said, match", [
    ({"do_normalize": True}, "do_normalize is true, wanted false: this kind of model takes sound as it is"),
    ({"do_normalize": "no"}, "do_normalize is 'no', wanted true or false"),
    ({"sampling_rate": 8_000}, "made for sound of 8000 Hz"),
])  # fmt: skip
def test_a_whisper_that_wants_other_sound_is_refused(tmp_path, said, match):
    shutil.copytree(os.path.join(GOLDEN, "whisper"), tmp_path / "m")
    (tmp_path / "m/preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=match) as error:
        speech.source(str(tmp_path / "m"), max_seconds=2.0, dtype="float32")
    assert "\n" not in str(error.value)


def test_another_kind_of_model_is_refused_with_those_that_are_known():
    known = "data2vec-audio, hubert, wav2vec2, wavlm, whisper"
    with pytest.raises(UserError, match=f"model_type is 'bert'; wanted {known}"):
        speech.source(os.path.join(GOLDEN, "bert"), max_seconds=2.0, dtype="float32")


def test_a_model_that_says_nonsense_is_refused(tmp_path):
    folder = model_that_says(tmp_path, do_normalize="maybe")
    with pytest.raises(UserError, match="do_normalize is 'maybe', wanted true or false"):
        speech.source(folder, max_seconds=2.0, dtype="float32")
