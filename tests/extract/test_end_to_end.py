"""The real command with real, tiny encoders, from miniature releases to packs."""

import csv
import os
import sys
from collections import Counter

import numpy as np
import pytest

from cmarr_jax.data import pack, provenance
from cmarr_jax.extract import __main__ as command
from cmarr_jax.extract import faces, raw
from tests.extract import releases
from tests.extract.models.test_densenet import filled, shapes

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
MODELS = [
    "--text-model", f"{GOLDEN}/bert", "--max-tokens", "12",
    "--speech-model", f"{GOLDEN}/wav2vec2", "--max-seconds", "1",
]  # fmt: skip
VIDEO_DIM = 5


def frames(samples: int) -> int:
    for kernel, stride in [(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)]:
        samples = (samples - kernel) // stride + 1
    return samples


def read_problems(out: str) -> dict[tuple[str, str], str]:
    with open(f"{out}/problems.csv", newline="") as f:
        return {(row["id"], row["modality"]): row["status"] for row in csv.DictReader(f)}


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory):
    """A release whose sound files have every fault, its video features, and the pack."""
    folder = str(tmp_path_factory.mktemp("release"))
    root = releases.iemocap(folder)

    def wav(i):
        return f"{root}/Session{i[4]}/sentences/wav/{i.rpartition('_')[0]}/{i}.wav"

    releases.write_wav(wav("Ses01F_impro01_F000"), 399 / 16_000)
    releases.write_wav(wav("Ses01F_impro01_M000"), 400 / 16_000)
    releases.write_wav(wav("Ses01M_script01_1b_F000"), 0.5, silent=True)
    releases.write(wav("Ses02F_impro02_F001"), b"RIFF but no sound")
    releases.write_wav(wav("Ses03M_impro03_M001"), 1.5)
    os.remove(wav("Ses04F_impro04_M002"))
    releases.write_wav(wav("Ses05M_impro05_F003"), 0.5, rate=44_100)
    releases.write_wav(wav("Ses05M_impro05_M005"), 0.75)
    for k, i in enumerate(releases.IEMOCAP_TURNS):
        features = np.random.default_rng(k).normal(size=(k, VIDEO_DIM)).astype(np.float32)
        if i not in ("Ses04F_impro04_M002", "Ses02F_impro02_F001"):
            os.makedirs(f"{folder}/video", exist_ok=True)
            np.save(f"{folder}/video/{i}.npy", features)
    out = f"{folder}/pack"
    argv = ["iemocap", "--root", root, "--out", out, "--video-features", f"{folder}/video"]
    assert command.main([*argv, *MODELS, "--max-bad", "0.1"]) == 3
    return argv, out


def test_the_pack_holds_every_modality_that_could_be_read(iemocap):
    _, out = iemocap
    made = pack.read(out)
    rows = {
        m: dict(zip(made.columns["id"].tolist(), np.diff(made.offsets[m]).tolist(), strict=True))
        for m in made.modalities
    }
    assert made.modalities == ("text", "speech", "video")
    assert rows["speech"] == {
        "Ses01F_impro01_F000": 0,
        "Ses01F_impro01_M000": frames(400),
        "Ses01M_script01_1b_F000": 0,
        "Ses02F_impro02_F001": 0,
        "Ses03M_impro03_M001": frames(16_000),
        "Ses05M_impro05_F003": frames(8_000),
        "Ses05M_impro05_M005": frames(12_000),
    }  # Ses04F_impro04_M002 has nothing and is not in the pack
    assert rows["text"]["Ses01F_impro01_M000"] == 10  # cut to 12 tokens, two of them special
    assert rows["text"]["Ses05M_impro05_M005"] == 2  # an unknown word and a full stop
    order = list(releases.IEMOCAP_TURNS)
    assert rows["video"]["Ses05M_impro05_M005"] == order.index("Ses05M_impro05_M005")
    assert rows["video"]["Ses02F_impro02_F001"] == 0


def test_problems_names_each_fault(iemocap):
    assert read_problems(iemocap[1]) == {
        ("Ses01F_impro01_F000", "speech"): "too_short",
        ("Ses01F_impro01_F000", "video"): "no_face",
        ("Ses01F_impro01_M000", "text"): "truncated",
        ("Ses01M_script01_1b_F000", "speech"): "silent",
        ("Ses02F_impro02_F001", "speech"): "unreadable",
        ("Ses02F_impro02_F001", "video"): "missing_file",
        ("Ses03M_impro03_M001", "speech"): "truncated",
        ("Ses04F_impro04_M002", "text"): "missing_text",
        ("Ses04F_impro04_M002", "speech"): "missing_file",
        ("Ses04F_impro04_M002", "video"): "missing_file",
        ("Ses04F_impro04_M002", "all"): "dropped",
    }


def test_msp_improv_with_either_spelling_gives_the_same_features(tmp_path):
    outs = []
    for spelling in ("Evaluation.txt", "Evalution.txt"):
        root = releases.msp_improv(str(tmp_path / spelling), spelling)
        outs.append(str(tmp_path / spelling / "pack"))
        argv = ["msp_improv", "--root", root, "--out", outs[-1], "--scenarios", "S", *MODELS]
        assert command.main([*argv, "--max-bad", "0.4"]) == 0
    a, b = map(pack.read, outs)
    assert Counter(a.columns["label"].tolist()) == {"neu": 1, "ang": 1, "sad": 1}
    assert a.columns["speaker"].tolist() == ["F01", "M01", "F05"]
    for modality in ("text", "speech"):
        np.testing.assert_array_equal(a.features[modality], b.features[modality])


def test_a_missing_package_is_one_line_that_names_the_command(
    iemocap, tmp_path, monkeypatch, capsys
):
    argv, _ = iemocap
    for package in ("soundfile", "soxr", "safetensors"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            code = command.main(
                [*argv, *MODELS, "--out", str(tmp_path / "p"), "--modalities", "s,v"]
            )
        assert code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert package in error and "pip install -r requirements-extract.txt" in error
    assert os.listdir(tmp_path) == []


def test_a_wrong_model_is_one_line(iemocap, tmp_path, capsys):
    argv, _ = iemocap
    for flags in (
        ["--text-model", str(tmp_path)],
        ["--text-model", f"{GOLDEN}/wav2vec2"],
        ["--speech-model", f"{GOLDEN}/bert"],
        ["--max-tokens", "1000"],
        ["--max-seconds", "0.1"],
        ["--video-model", f"{GOLDEN}/bert/model.safetensors"],
    ):
        code = command.main([*argv, *MODELS, *flags, "--out", str(tmp_path / "p")])
        assert code == 2, flags
        captured = capsys.readouterr()
        assert captured.err.splitlines()[-1].startswith("error: "), flags
        assert "Traceback" not in captured.err and captured.out == ""


@pytest.mark.parametrize(
    "side, expected",
    [
        ("marker_left", {"Ses01F_impro01_F000"}),
        ("female_left", {"Ses01F_impro01_F000", "Ses01M_script01_1b_F000"}),
    ],
)
def test_faces_are_cut_from_the_speakers_half(tmp_path, monkeypatch, rng, side, expected):
    """Videos with somebody in the left half alone, through a small face network."""
    cv2 = pytest.importorskip("cv2")
    root = releases.iemocap(str(tmp_path))
    for dialogue in ("Ses01F_impro01", "Ses01M_script01_1b"):
        file = f"{root}/Session1/dialog/avi/DivX/{dialogue}.avi"
        os.makedirs(os.path.dirname(file), exist_ok=True)
        video = cv2.VideoWriter(file, cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (720, 480))
        for shade in range(130):
            frame = np.zeros((480, 720, 3), np.uint8)
            frame[:, :360] = 120 + shade
            video.write(frame)
        video.release()

    def find_bright(frame):
        return [(100, 150, 80, 80)] if frame.mean() > 50 else []

    monkeypatch.setattr(faces, "mtcnn", lambda: find_bright)
    network = str(tmp_path / "weights.npz")
    np.savez(network, **filled(rng, shapes(layers=1)), mean=130.0, std=50.0)
    out = str(tmp_path / "pack")
    argv = ["iemocap", "--root", root, "--out", out, "--video-model", network, "--max-bad", "1"]
    assert command.main([*argv, "--modalities", "t,v", "--speaker-side", side, *MODELS]) == 0
    made = pack.read(out)
    rows = dict(zip(made.columns["id"].tolist(), np.diff(made.offsets["video"]), strict=True))
    assert {i for i, count in rows.items() if count} == expected
    assert rows["Ses01F_impro01_F000"] in (12, 13)  # 1.21 s at 10 frames a second
    problems = read_problems(out)
    assert problems["Ses01F_impro01_M000", "video"] == "no_face"
    assert problems["Ses05M_impro05_M005", "video"] == "missing_file"


def test_another_speech_encoder_and_some_of_its_states_for_a_pack_and_for_prediction(tmp_path):
    root, out = releases.iemocap(str(tmp_path)), str(tmp_path / "pack")
    model = ["--speech-model", f"{GOLDEN}/whisper", "--layers", "speech=0,2", "--max-seconds", "2"]
    argv = ["iemocap", "--root", root, "--out", out, "--modalities", "s", *model, "--max-bad", "1"]
    assert command.main(argv) == 0
    made = pack.read(out)
    assert made.features["speech"].shape[1] == 32
    facts = provenance.encoders(made.provenance, made.modalities)
    recipe = facts["speech"]["recipe"]
    assert recipe["encoder"] == "whisper" and recipe["normalised"] is False
    assert (recipe["layers"], recipe["states"], recipe["layout"]) == ("0,2", [0, 2], "side by side")
    source = raw.open_sources(facts, {"speech": None}, alone=True)["speech"]
    assert source.dim == 32 and source.recipe == recipe
    wav = f"{root}/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    features, _ = raw.encode(
        {"speech": source}, [raw.utterance("u", wav=wav)], {"speech": "float16"}
    )
    row = made.columns["id"].tolist().index("Ses01F_impro01_F000")
    np.testing.assert_allclose(
        np.float32(features["speech"][0]),
        np.float32(made.sequence("speech", row)),
        atol=4e-3,
        rtol=2e-3,
    )
