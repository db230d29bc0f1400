import os
import shutil

import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract.corpora import meld
from tests.extract import releases


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return releases.meld(str(tmp_path_factory.mktemp("meld")))


def test_labels_parts_speakers_and_texts(root):
    found = meld.scan(root)
    assert found.class_names == (
        *("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"),
    )
    assert len(found.utterances) == len(releases.MELD_TURNS)
    for u, (key, row) in zip(found.utterances, releases.MELD_TURNS.items(), strict=True):
        part, dialogue, turn = key
        assert u.id == f"{part}_dia{dialogue}_utt{turn}" and u.group == f"{part}_dia{dialogue}"
        assert u.split == {"dev": "val"}.get(part, part)
        assert (u.label, u.speaker) == (row[2], row[1].strip())
        assert (u.start, u.end, u.side, u.wav_span) == (None, None, None, None)
    texts = {u.id: u.text for u in found.utterances}
    assert (
        texts["train_dia0_utt1"] == "You must\N{RIGHT SINGLE QUOTATION MARK}ve had your hands full."
    )
    assert texts["train_dia125_utt4"] == 'Oh, "no".'
    assert {u.session for u in found.utterances} == {"7", "8", "9"}


def test_sentiments(root):
    found = meld.scan(root, classes="3")
    assert found.class_names == ("negative", "neutral", "positive")
    assert [u.label for u in found.utterances] == [r[3] for r in releases.MELD_TURNS.values()]


def test_clips_and_their_known_defects(root):
    found = meld.scan(root)
    clips = {u.id: os.path.relpath(u.video, root) for u in found.utterances if u.video}
    assert clips["train_dia0_utt0"] == "train/train_splits/dia0_utt0.mp4"
    assert clips["dev_dia0_utt0"] == "dev_splits_complete/dia0_utt0.mp4"
    test = "output_repeated_splits_test"
    assert clips["test_dia93_utt5"] == f"{test}/dia93_utt5.mp4"
    assert clips["test_dia93_utt6"] == f"{test}/final_videos_testdia93_utt6.mp4"
    assert all(u.wav == u.video for u in found.utterances)
    assert found.warnings[:3] == [
        "1 utterances have no clip (dev_dia110_utt7)",
        "1 clips named final_videos_test... are second copies, not read (test_dia93_utt5)",
        "1 clips and sound files of no row are not read (dev_dia66_utt9.mp4)",
    ]


def test_counts_that_differ_from_the_release(root, monkeypatch):
    found = meld.scan(root).warnings
    assert found[-2] == (
        "found 4 train, 3 val, 3 test = 10; the full release has 9989 train, 1109 val, 2610 test "
        "= 13708"
    )
    assert found[-1].endswith("1002 sadness, 1636 surprise = 13708")
    sentiments = meld.scan(root, classes="3").warnings[-1]
    assert sentiments.endswith("4184 negative, 6436 neutral, 3088 positive = 13708")
    monkeypatch.setattr(meld, "KNOWN_PARTS", {"train": 4, "val": 3, "test": 3})
    monkeypatch.setitem(meld.KNOWN_COUNTS, "3", {"negative": 5, "neutral": 2, "positive": 3})
    assert not any("full release" in line for line in meld.scan(root, classes="3").warnings)


def test_other_layouts(root, tmp_path):
    """The tables in a folder of their own, clips under videos/PART, sound beside them."""
    clips = {"train": "train_splits", "dev": "dev", "test": "test_splits"}
    for part, dialogue, turn in releases.MELD_TURNS:
        releases.write(f"{tmp_path}/videos/{clips[part]}/dia{dialogue}_utt{turn}.mp4", "x")
        releases.write(f"{tmp_path}/audio/{part}/dia{dialogue}_utt{turn}.flac", "x")
    for part in clips:
        os.makedirs(f"{tmp_path}/data/MELD", exist_ok=True)
        shutil.copy(f"{root}/{part}_sent_emo.csv", f"{tmp_path}/data/MELD")
    found = meld.scan(str(tmp_path))
    first = found.utterances[4]
    assert first.video == f"{tmp_path}/videos/dev/dia0_utt0.mp4"
    assert first.wav == f"{tmp_path}/audio/dev/dia0_utt0.flac"
    assert [line for line in found.warnings if "full release" not in line] == []


HEADER = "Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season"


@pytest.mark.parametrize(
    "table, message",
    [
        (None, "no dev_sent_emo.csv in it or below; wanted the folder MELD.Raw"),
        ("", "dev_sent_emo.csv: its first line is ''; wanted a header with the columns Utterance"),
        ("<html>404</html>\n", "its first line is '<html>404</html>'"),
        (HEADER.replace("Emotion,", ""), "wanted a header with the columns Utterance, Speaker"),
        (HEADER, "dev_sent_emo.csv: has no row below its header"),
        (HEADER + "\n\n,,,,,,\n", "dev_sent_emo.csv: has no row below its header"),
        (HEADER + ",Season\n", "has two columns 'Season'; wanted each once"),
        (HEADER + "\nHi, you.,Joey,joy,positive,0,0,7\n", "row 2 has 8 fields, wanted 7"),
        (HEADER + '\n"Hi.,Joey,joy,positive,0,0,7\n', "line 2 is not CSV (unexpected end of data)"),
        (HEADER + "\nHi.,Joey,joy,positive,zero,0,7\n", "row 2 has Dialogue_ID 'zero'"),
        (HEADER + "\nHi.,Joey,joy,positive,0,,7\n", "Utterance_ID '', wanted two numbers"),
        (HEADER + "\nHi.,Joey,joy,positive,0,-1,7\n", "Utterance_ID '-1', wanted two numbers"),
    ],
)
def test_a_table_that_is_none_is_one_line(root, tmp_path, table, message):
    copy = str(tmp_path / "MELD.Raw")
    shutil.copytree(root, copy)
    os.remove(f"{copy}/dev_sent_emo.csv")
    if table is not None:
        releases.write(f"{copy}/dev_sent_emo.csv", table)
    with pytest.raises(UserError) as refused:
        meld.scan(copy)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_odd_rows_are_named_and_stop_nothing(root, tmp_path):
    copy = str(tmp_path / "MELD.Raw")
    shutil.copytree(root, copy)
    rows = ["Hi.,Joey,joy,positive,0,0,7,x", "Hi.,Joey,sadness,positive,0,0,7,x"]
    rows += [
        "Hm.,Joey,boredom,positive,0,1,7,x",
        ",\x00,Joy,positive,0,2,,x",
        "\x92t,J,joy,,0,3,7,x",
    ]
    table = "\n".join([f"{HEADER},Notes", *rows])
    releases.write(f"{copy}/dev_sent_emo.csv", b"\xef\xbb\xbf" + table.encode())
    shutil.copy(f"{copy}/dev_sent_emo.csv", f"{copy}/dev_splits_complete")
    found = meld.scan(copy)
    assert found.warnings[:4] == [
        "dev_sent_emo.csv: found 2 times, dev_sent_emo.csv counts",
        "1 columns of dev_sent_emo.csv are not read (Notes)",
        "dev_sent_emo.csv: row 3 repeats dev_dia0_utt0, the first row counts",
        "dev_sent_emo.csv: row 4 has the unknown label 'boredom'",
    ]  # fmt: skip
    dev = {u.id: u for u in found.utterances if u.split == "val"}
    assert [u.label for u in dev.values()] == ["joy", "", "joy", "joy"]
    nobody = dev["dev_dia0_utt2"]
    assert (nobody.text, nobody.speaker, nobody.session) == (None, "unknown", "unknown")
    assert dev["dev_dia0_utt3"].text == "\N{RIGHT SINGLE QUOTATION MARK}t"
    releases.write(
        f"{copy}/dev_sent_emo.csv", f"{HEADER}\nIt's caf\xe9,J,joy,,0,3,7".encode("cp1252")
    )
    (texts,) = (u.text for u in meld.scan(copy).utterances if u.split == "val")
    assert texts == "It's caf\xe9"


def test_files_that_are_not_understood_are_named(root, tmp_path):
    copy = str(tmp_path / "MELD.Raw")
    shutil.copytree(root, copy)
    releases.write(f"{copy}/clips/dia0_utt0.mp4", "of which part?")
    releases.write(f"{copy}/train/train_splits/intro.mp4", "of which row?")
    (line,) = (w for w in meld.scan(copy).warnings if w.startswith("2 clips"))
    assert line.endswith("(dia0_utt0.mp4, intro.mp4)")
