"""`python -m cmarr_jax.extract` as a user types it, on miniature releases."""

import csv
import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cmarr_jax.data import pack
from cmarr_jax.errors import UserError
from cmarr_jax.extract import __main__ as command
from cmarr_jax.extract import flags
from cmarr_jax.extract.source import Loaded
from tests.extract import fake, releases

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory):
    return releases.iemocap(str(tmp_path_factory.mktemp("iemocap")))


@pytest.fixture(scope="module")
def msp_improv(tmp_path_factory):
    return releases.msp_improv(str(tmp_path_factory.mktemp("msp")))


@pytest.fixture
def fakes(monkeypatch):
    """Encoders that need no weights."""

    def load_wav(u):
        return Loaded("ok", (u.id[-3:], 4)) if u.wav else Loaded("missing_file", None, "no wav")

    def encode(bucket, items):
        return [np.full((length, 3), sum(i.encode()), np.float32) for i, length in items]

    def sources(args, release):
        return [
            fake.source("text")._replace(encode=encode),
            fake.source("speech", load=load_wav)._replace(encode=encode),
        ]

    monkeypatch.setattr(command, "_sources", sources)


def code_of(argv):
    try:
        return command.main(argv)
    except SystemExit as e:  # argparse's own end
        return e.code


def run(*argv):
    return subprocess.run(
        [sys.executable, "-m", "cmarr_jax.extract", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("corpus", [[], ["iemocap"], ["msp_improv"], ["csv"]])
def test_help_teaches(corpus):
    result = run(*corpus, "--help")
    assert result.returncode == 0 and result.stderr == ""
    assert ("--scenarios LETTERS" in result.stdout) == (corpus == ["msp_improv"])
    assert ("--speaker-side" in result.stdout) == (corpus == ["iemocap"])
    assert corpus or "python -m cmarr_jax.extract iemocap --root" in result.stdout


def test_mistakes_are_one_line_and_exit_code_2(iemocap, msp_improv, tmp_path, capsys):
    out = str(tmp_path / "p")
    for argv, message in [
        ([], "required"),
        (["savee"], "invalid choice: 'savee'"),
        (["iemocap"], "--root"),
        (["iemocap", "--root", "/nowhere"], "--root=/nowhere: no such file or folder"),
        (["iemocap", "--root", str(tmp_path)], "no label under Session1..5"),
        (["iemocap", "--root", iemocap, "--classes", "5"], "invalid choice: '5'"),
        (["iemocap", "--root", iemocap, "--complete"], "--complete"),
        (["meld", "--root", iemocap], "no train_sent_emo.csv"),
        (["cremad", "--root", iemocap], "no file such as AudioWAV/1001_DFA_ANG_XX.wav"),
        (["ravdess", "--root", iemocap], "no file such as Actor_01/"),
        (["csv", "--root", iemocap], "a folder; wanted a table"),
        (["iemocap", "--root", iemocap, "--out", out, "--scenarios", "S"], "--scenarios S"),
        (["iemocap", "--root", iemocap, "--out", out, "--modalities", "a"], "wanted some of t,s,v"),
        (["iemocap", "--root", iemocap, "--out", out, "--modalities", "t,t"], "each once"),
        (["iemocap", "--root", iemocap, "--out", out, "--modalities", "v"], "no turn has a video"),
        (
            ["iemocap", "--root", iemocap, "--out", out, "--modalities", "t", "--faces", "x"],
            "leaves out v",
        ),
        (["iemocap", "--root", iemocap, "--out", out, "--max-bad", "5"], "a share from 0 to 1"),
        (["iemocap", "--root", iemocap, "--out", out, "--max-tokens", "0"], "more than 0"),
        (["iemocap", "--root", iemocap, "--out", out, "--layers=sound=last"], "text=WHICH, speech"),
        (
            ["iemocap", "--root", iemocap, "--out", out, "--modalities", "t", "--layers=speech=0"],
            "--layers=speech=0: wanted WHICH or, of these modalities, text=WHICH",
        ),
        (["iemocap", "--root", iemocap, "--out", out, "--speaker-side", "up"], "marker_left"),
        (["msp_improv", "--root", msp_improv, "--out", out, "--scenarios", "Z"], "letters PRST"),
        (["msp_improv", "--root", iemocap, "--out", out], "no Evaluation.txt"),
    ]:
        assert code_of(argv) == 2, argv
        captured = capsys.readouterr()
        (line,) = [x for x in captured.err.splitlines() if not x.startswith("warning: ")][-1:]
        assert line.startswith("error: ") and message in line, (argv, line)
        assert captured.out == "" and not os.path.exists(out)


def test_list_counts_by_session_and_class(iemocap, capsys):
    assert command.main(["iemocap", "--root", iemocap, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "iemocap: 10 turns in the release"
    table = [" ".join(line.split()) for line in lines[1:]]
    assert table[0] == "session ang hap neu sad total transcript wav video"
    assert table[1] == "1 1 1 1 0 3 3 3 0"
    assert table[-1] == "all 1 3 2 2 8 7 8 0"


def test_list_works_for_every_corpus(tmp_path, capsys):
    for corpus, root, first, last in [
        ("meld", releases.meld(str(tmp_path)), "split anger disgust", "all 1 1 1 2 2 2 1 10"),
        ("cremad", releases.cremad(str(tmp_path)), "session ang dis fea", "all 1 1 1 1 1 2 7"),
        ("ravdess", releases.ravdess(str(tmp_path)), "session angry calm", "all 1 1 1 1 1 5"),
        ("csv", releases.own(str(tmp_path)), "split angry calm total", "all 12 12 24"),
        ("msp_improv", releases.msp_improv(str(tmp_path)), "session ang hap neu", "all 1 1 2 2 6"),
    ]:
        assert command.main([corpus, "--root", root, "--list"]) == 0
        table = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()[1:]]
        assert table[0].startswith(first) and table[-1].startswith(last), corpus
        if first.startswith("split"):
            assert [row.split()[0] for row in table[1:]] == ["train", "val", "test", "all"]


def test_list_of_many_sessions_is_short(tmp_path, capsys):
    rows = [f"u{k},{'ab'[k % 2]},Hi.,p{k}" for k in range(40)]
    releases.write(f"{tmp_path}/t.csv", "\n".join(["id,label,text,speaker", *rows]))
    assert command.main(["csv", "--root", f"{tmp_path}/t.csv", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[-1] == "40 sessions"


@pytest.mark.parametrize("corpus", command._READERS)
def test_the_flags_of_a_corpus_are_the_keywords_of_its_reader(corpus):
    reader = command._READERS[corpus]
    args = flags.parser("", command._READERS).parse_args([corpus, "--root", "x"])
    assert flags.options(args, reader) == (reader.scan.__kwdefaults__ or {})


def test_the_pack_goes_where_training_looks_for_it(msp_improv, tmp_path, fakes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["msp_improv", "--root", msp_improv, "--max-bad", "1"]) == 0
    table = releases.own(str(tmp_path))
    assert command.main(["csv", "--root", table, "--classes", "calm,angry"]) == 0
    assert sorted(os.listdir("data")) == ["msp_improv", "own"]
    made = pack.read("data/own")
    assert made.name == "own" and made.class_names == ("calm", "angry")
    assert set(made.columns["split"].tolist()) == {"train", "val", "test"}


def test_a_bad_table_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tables = {
        "none": ("id,label,text", "u,,Hi."),
        "nothing": ("id,label,speaker", "u,a,p"),
        "twice": ("id,label,text", "u,a,Hi.", "u,b,Ho."),
        "fra\u00e7ais": ("id;label;text", "u;a;Hi.;"),
    }
    for name, message in {
        "none": "no row has a label",
        "nothing": "no turn has a transcript or sound",
        "twice": "row 3 repeats the id 'u' of row 2",
        "fra\u00e7ais": "row 2 has 4 fields, wanted 3",
        "absent": "no such file or folder",
    }.items():
        if name in tables:
            releases.write(f"{tmp_path}/{name}.csv", "\n".join(tables[name]))
        assert code_of(["csv", "--root", f"{name}.csv"]) == 2
        captured = capsys.readouterr()
        line = captured.err.splitlines()[-1]
        assert line.startswith("error: ") and message in line, name
        assert "Traceback" not in captured.err and captured.out == ""
    assert sorted(os.listdir(tmp_path)) == sorted(f"{name}.csv" for name in tables)


def test_iemocap_becomes_a_pack(iemocap, tmp_path, fakes, capsys):
    out = str(tmp_path / "p")
    assert command.main(["iemocap", "--root", iemocap, "--out", out, "--max-bad", "0.2"]) == 0
    captured = capsys.readouterr()
    assert f"{out}: 8 utterances (1 ang, 3 hap, 2 neu, 2 sad)" in captured.out
    assert "text: " in captured.out and "7 ok" in captured.out and "1 missing_text" in captured.out
    assert "warning: found 1 ang" in captured.err
    made = pack.read(out)
    assert made.name == "iemocap" and made.class_names == ("ang", "hap", "neu", "sad")
    labelled = {i: turn for i, turn in releases.IEMOCAP_TURNS.items() if turn[1]}
    assert dict(zip(made.columns["id"], made.columns["speaker"], strict=True)) == {
        i: speaker for i, (_, _, speaker, _, _) in labelled.items()
    }
    assert made.columns["start"][0] == "6.2901" and made.columns["end"][0] == "7.5000"
    absent = np.diff(made.offsets["text"]) == 0
    assert made.columns["id"][absent].tolist() == ["Ses04F_impro04_M002"]
    assert made.features["text"].dtype == np.float16
    assert made.provenance["options"] == {
        "corpus": "iemocap",
        "classes": "4",
        "only": None,
        "speaker_side": "marker_left",
        "strip_tags": False,
    }
    with open(f"{out}/problems.csv", newline="") as f:
        assert list(csv.DictReader(f)) == [
            {"id": "Ses04F_impro04_M002", "modality": "text", "status": "missing_text", "detail": "no transcript"}
        ]  # fmt: skip


def test_unlabelled_turns_are_kept_on_demand(iemocap, tmp_path, fakes):
    out = str(tmp_path / "p")
    argv = ["iemocap", "--root", iemocap, "--out", out, "--keep-unlabelled", "--max-bad", "1"]
    assert command.main(argv) == 0
    assert pack.read(out).labels.tolist().count(-1) == 2 and len(pack.read(out).labels) == 10


def test_too_many_bad_turns_are_exit_code_3_until_they_are_accepted(
    msp_improv, tmp_path, fakes, capsys
):
    out = str(tmp_path / "p")
    argv = ["msp_improv", "--root", msp_improv, "--out", out]
    assert command.main(argv) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        "error: text: 33.3% of 6 utterances have no features, more than --max-bad=0.05; "
        f"see {out}/problems.csv"
    )
    assert len(pack.read(out).labels) == 6  # the pack is there all the same
    assert command.main(argv) == 3
    assert command.main([*argv, "--max-bad", "0.4"]) == 0


def test_interrupted(iemocap, tmp_path, fakes, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    argv = ["iemocap", "--root", iemocap, "--out", str(tmp_path / "p"), "--max-bad=1"]
    with monkeypatch.context() as patch:
        patch.setattr(command.engine, "_encode_batch", interrupt)
        assert command.main(argv) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert command.main(argv) == 0


def test_a_full_disk_is_one_line(iemocap, tmp_path, fakes, monkeypatch, capsys):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    assert code_of(["iemocap", "--root", iemocap, "--out", str(tmp_path / "p")]) == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]


def test_quiet_shows_warnings_alone(iemocap, tmp_path, fakes, capsys):
    argv = ["iemocap", "--root", iemocap, "--out", str(tmp_path / "p"), "--max-bad=1", "--quiet"]
    command.main(argv)
    assert all(x.startswith("warning: ") for x in capsys.readouterr().err.splitlines())


def test_many_warnings_are_cut(iemocap, tmp_path, capsys):
    copy = str(tmp_path / "release")
    shutil.copytree(iemocap, copy)
    with open(f"{copy}/Session2/dialog/EmoEvaluation/Ses02F_impro02.txt", "a") as f:
        f.write("[bad line\n" * 30)
    command.main(["iemocap", "--root", copy, "--list"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11 and lines[-1] == "warning: and 21 more like these"


def test_video_has_a_default_model_and_its_flags_reach_the_source(tmp_path, monkeypatch, capsys):
    from cmarr_jax.extract import pretrained, video

    asked = []

    def source(**options):
        asked.append(options)
        raise UserError("stop here")

    monkeypatch.setattr(video, "source", source)
    monkeypatch.setattr(pretrained, "pinned", lambda model, progress: f"{model}@1")
    root = releases.msp_improv_with_video(str(tmp_path), 1)
    argv = ["msp_improv", "--root", root, "--out", str(tmp_path / "p"), "--modalities", "v"]
    assert command.main(argv) == 2
    assert command.main([*argv, "--video-features", "x"]) == 2
    flags_ = [
        "--video-model",
        "m",
        "--face-margin",
        "0.3",
        "--face-size",
        "96",
        "--layers",
        "video=all",
    ]
    assert command.main([*argv, *flags_]) == 2
    default, ready, given = asked
    assert default["model"] == f"{flags.VIDEO_MODEL}@1" and default["fps"] == 10.0
    assert default["margin"] is default["size"] is None and default["layers"] == "last"
    assert ready["model"] is None and ready["features"] == "x"
    assert (given["model"], given["margin"], given["size"], given["layers"]) == (
        "m@1",
        0.3,
        96,
        "all",
    )
    with pytest.raises(SystemExit):
        command.main(["msp_improv", "--help"])
    help_ = " ".join(capsys.readouterr().out.split())
    assert flags.VIDEO_MODEL in help_ and f"(default: {video.MARGIN}; for Denseface" in help_


@pytest.mark.parametrize(
    "flag", [["--face-margin", "0.1"], ["--face-size", "96"], ["--video-model", "x"]]
)
def test_a_flag_of_video_asks_for_video(iemocap, tmp_path, capsys, flag):
    argv = ["iemocap", "--root", iemocap, "--out", str(tmp_path / "p"), *flag]
    assert command.main(argv) == 2
    assert "--modalities=t,s,v: no turn has a video file" in capsys.readouterr().err
    assert command.main([*argv, "--modalities", "t"]) == 2
    assert "leaves out v, but a video option is given" in capsys.readouterr().err


def test_a_revision_is_of_the_names_that_say_none(tmp_path, monkeypatch):
    from cmarr_jax.extract import pretrained

    asked = []

    def pinned(model, progress):
        asked.append(model)
        if len(asked) == 2:
            raise UserError("stop here")
        return model

    monkeypatch.setattr(pretrained, "pinned", pinned)
    argv = ["iemocap", "--root", releases.iemocap(str(tmp_path)), "--out", str(tmp_path / "p")]
    for text, speech, wanted in (
        ("a/b", "c@old", ["a/b@v1", "c@old"]),
        (str(tmp_path), "d", [str(tmp_path), "d@v1"]),
    ):
        asked.clear()
        models = ["--text-model", text, "--speech-model", speech]
        assert command.main([*argv, *models, "--revision", "v1"]) == 2
        assert asked == wanted
