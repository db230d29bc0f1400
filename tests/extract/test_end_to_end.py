"""The real command with real, tiny encoders, from miniature releases to packs."""

import csv
import os
import sys
import wave
from collections import Counter

import numpy as np
import pytest

from cmarr_jax.data import pack, protocol, provenance
from cmarr_jax.errors import UserError
from cmarr_jax.extract import __main__ as command
from cmarr_jax.extract import raw
from cmarr_jax.extract import video as video_source
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
        ("Ses01F_impro01_M000", "speech"): "cut_short",  # by the times in the label file
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


def test_a_wav_file_that_is_shorter_than_its_turn_is_named(iemocap):
    """Its header is right; the label file knows better."""
    with open(f"{iemocap[1]}/problems.csv", newline="") as f:
        details = {(r["id"], r["modality"]): r["detail"] for r in csv.DictReader(f)}
    assert details["Ses01F_impro01_M000", "speech"] == (
        "0.03 s, 1.11 s by the times in the label file"
    )


@pytest.mark.parametrize(
    "corpus, build, modalities, bad",
    [
        ("meld", lambda root: releases.meld(root, sound=True), ("text", "speech"), {}),
        ("cremad", releases.cremad, ("speech",), {"1076_MTI_SAD_XX": "silent"}),
        (
            "ravdess",
            releases.ravdess,
            ("speech",),
            {"01-07-01-01-01-12": "missing_file", "01-08-02-02-02-24": "unreadable"},
        ),
    ],
)
def test_a_release_becomes_a_pack(tmp_path, monkeypatch, capsys, corpus, build, modalities, bad):
    root, out = build(str(tmp_path)), os.path.join("data", corpus)
    monkeypatch.chdir(tmp_path)
    assert command.main([corpus, "--root", root, "--max-bad", "1", *MODELS]) == 0
    made = pack.read(out)  # where train.py --config configs/NAME.py looks for it
    assert made.name == corpus and made.modalities == modalities
    problems = {i: s for (i, m), s in read_problems(out).items() if m == "speech"}
    assert problems == bad
    assert set(read_problems(out)) - {(i, "speech") for i in bad} == {(i, "all") for i in bad}
    assert ("split" in made.columns) == ("group" in made.columns) == (corpus == "meld")
    assert all(made.columns["text"])
    lacking = len(bad)
    assert f"{len(made.labels) + lacking} turns, " in capsys.readouterr().err


def test_melds_sound_is_in_its_clips(tmp_path):
    film = pytest.importorskip("tests.extract.test_ffmpeg").film
    root, out = releases.meld(str(tmp_path)), str(tmp_path / "pack")
    noise = np.random.default_rng(0).normal(scale=0.1, size=20_000)
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(".mp4") and not name.startswith("."):
                film(os.path.join(folder, name), noise)
    releases.write(f"{root}/train/train_splits/dia125_utt3.mp4", "damaged")
    assert command.main(["meld", "--root", root, "--out", out, "--max-bad", "0.2", *MODELS]) == 0
    assert read_problems(out) == {
        ("train_dia125_utt3", "speech"): "unreadable",
        ("dev_dia110_utt7", "speech"): "missing_file",
    }
    assert len(pack.read(out).labels) == 10  # these two have their text


def test_a_table_of_segments_becomes_the_pack_that_cut_files_make(tmp_path):
    """Four turns of each recording, and the same turns as files of their own."""
    whole = releases.own(str(tmp_path))
    with open(whole, newline="") as f:
        rows = list(csv.DictReader(f))
    os.makedirs(tmp_path / "cut")
    with open(tmp_path / "cut.csv", "w", newline="") as f:
        writer = csv.DictWriter(f, [c for c in rows[0] if c not in ("start", "end")])
        writer.writeheader()
        for row in rows:
            with wave.open(f"{tmp_path}/{row['wav']}") as sound:
                sound.setpos(round(float(row.pop("start")) * 16_000))
                turn = sound.readframes(6_400)
            row["wav"] = f"cut/{row['id']}.wav"
            with wave.open(f"{tmp_path}/{row['wav']}", "wb") as sound:
                sound.setparams((1, 2, 16_000, 0, "NONE", ""))
                sound.writeframes(turn)
            del row["end"]
            writer.writerow(row)
    packs = []
    for file in (whole, f"{tmp_path}/cut.csv"):
        out = f"{file}.pack"
        assert command.main(["csv", "--root", file, "--out", out, *MODELS]) == 0
        packs.append(pack.read(out))
    segments, files = packs
    assert segments.name == "own" and segments.columns["end"][1] == "0.9000"
    assert segments.columns["split"].tolist().count("val") == 4
    assert segments.columns["group"][5] == "wav/talk1.wav" and "group" not in files.columns
    assert len(segments.features["speech"]) == 24 * frames(6_400)
    for modality in ("text", "speech"):
        np.testing.assert_array_equal(segments.features[modality], files.features[modality])
    (fold,) = protocol.make_folds(segments.columns, segments.labels, scheme="auto")
    assert [len(part) for part in (fold.train, fold.val, fold.test)] == [16, 4, 4]


def test_a_table_without_speakers_makes_a_pack_that_training_refuses_in_one_line(tmp_path, capsys):
    rows = [f"u{k},{'ab'[k % 2]},so am I" for k in range(6)]
    releases.write(f"{tmp_path}/plain.csv", "\n".join(["id,label,text", *rows]))
    out = f"{tmp_path}/pack"
    assert command.main(["csv", "--root", f"{tmp_path}/plain.csv", "--out", out, *MODELS]) == 0
    assert "no column split, session or speaker" in capsys.readouterr().err
    made = pack.read(out)
    assert made.modalities == ("text",)
    with pytest.raises(
        UserError, match=r"\(session unknown\): its train part is empty; wanted two"
    ):
        protocol.make_folds(made.columns, made.labels, scheme="auto")


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

    class Bright:
        """A detector to which a bright picture is a face."""

        def faces(self, picture, smallest, last):
            return [(100, 150, 80, 80)] if picture.mean() > 50 else []

        def confirms(self, picture, box):
            return picture.mean() > 50

    monkeypatch.setattr(video_source, "Mtcnn", Bright)
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
