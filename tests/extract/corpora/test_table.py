import os
import random

import pytest

from cmarr_jax.data import utterances
from cmarr_jax.errors import UserError
from cmarr_jax.extract import result
from cmarr_jax.extract.corpora import table
from tests.extract import releases


def write(folder, *lines: str, name="mine.csv", **files) -> str:
    for wav in ("a.wav", "b.wav"):
        releases.write(f"{folder}/{wav}", "sound")
    releases.write(f"{folder}/{name}", "\n".join(lines) + "\n")
    return f"{folder}/{name}"


def test_every_column(tmp_path):
    releases.write(f"{tmp_path}/clips/b.mp4", "video")
    found = table.scan(
        write(
            tmp_path,
            "session,id,label,text,wav,video,start,end,speaker,split,group",
            '1,u1,angry,"Leave me, alone!",a.wav,,1.5,2.25,anna,train,d1',
            "2,u2,,  ,b.wav,clips/b.mp4,,,ben,dev,",
            f"2,u3,calm,nan,{tmp_path}/b.wav,,,3,ben,test,d2",
            "2,u4,calm,Bye.,,,4,NaN,ben,valid,d2",
        )
    )
    first, second, third, fourth = found.utterances
    assert first == (
        *("u1", "1", "anna", "angry", "d1", "Leave me, alone!", f"{tmp_path}/a.wav", None),
        *(1.5, 2.25, None, "train", (1.5, 2.25)),
    )
    assert second == (
        *("u2", "2", "ben", "", "u2", None, f"{tmp_path}/b.wav", f"{tmp_path}/clips/b.mp4"),
        *(None, None, None, "val", None),
    )
    assert third.text == "nan"  # a word: what is missing is empty
    assert third.wav == f"{tmp_path}/b.wav" and third.wav_span == (0.0, 3.0)
    assert (fourth.wav_span, fourth.end, fourth.split) == ((4.0, None), None, "val")
    assert found.class_names == ("angry", "calm") and found.warnings == []
    assert found.name == "mine" and found.modalities == "t,s"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_spreadsheets(tmp_path, delimiter, mark):
    rows = [
        ["id", " label ", "text", "speaker"],
        ["u1", " a", "Hi.", " p1 "],
        ["u2", "b", "", "p2"],
    ]
    lines = [delimiter.join(row) for row in rows] + [delimiter * 3, ""]
    releases.write(f"{tmp_path}/mine.csv", mark + "\r\n".join(lines).encode())
    found = table.scan(f"{tmp_path}/mine.csv")
    assert [(u.id, u.label, u.text, u.speaker) for u in found.utterances] == [
        ("u1", "a", "Hi.", "p1"),
        ("u2", "b", None, "p2"),
    ]
    assert found.modalities == "t"


def test_what_is_not_read_is_named(tmp_path):
    file = write(tmp_path, "id,age,label,speaker,wav,notes", "u,3,a,p,a.wav,", "v,4,b,q,c.wav,")
    assert table.scan(file).warnings == [
        "mine.csv: columns: 2 not read (age, notes)",
        "column wav: 1 of 2 files do not exist, row 3's 'c.wav' first",
    ]
    assert [u.wav is None for u in table.scan(file).utterances] == [False, True]


@pytest.mark.parametrize(
    "given, classes, names, labels",
    [
        ("b a b", None, "a b", "b a b"),
        ("10 9 10", None, "9 10", "10 9 10"),
        ("1.0 0.0 nan", None, "0 1", "1 0 "),
        ("2 0 1", "x,y,z", "x y z", "z x y"),
        ("2 0 -1", "x,y,z", "x y z", "z x "),
        ("b a c", "c,b", "c b", "b  c"),
        ("nan NaN a", None, "a", "  a"),
        ("nan b", "nan,b", "nan b", "nan b"),
        ("1 2", "2,1", "2 1", "1 2"),  # a class' name stands for itself
        (" ", "a,b", "a b", " "),  # for prediction alone
    ],
)
def test_labels(tmp_path, given, classes, names, labels):
    rows = [f"u{k},{label},p{k}" for k, label in enumerate(given.split(" "))]
    found = table.scan(write(tmp_path, "id,label,speaker", *rows), classes=classes)
    assert found.class_names == tuple(names.split())
    assert [u.label for u in found.utterances] == labels.split(" ")
    numbered = classes is None and given[0].isdigit()
    assert any("--classes=a,b,... names them" in w for w in found.warnings) == numbered
    left_out = "1 rows have labels that --classes does not name, and are unlabelled (a)"
    assert (left_out in found.warnings) == (given == "b a c")


def test_speaker_session_and_split_that_are_missing(tmp_path):
    def names(*lines):
        found = table.scan(write(tmp_path, *lines))
        return [(u.session, u.speaker, u.split) for u in found.utterances], found.warnings

    assert names("id,label,speaker", "u,a,p", "v,b,q") == ([("p", "p", ""), ("q", "q", "")], [])
    assert names("id,label,session", "u,a,1", "v,b,2") == ([("1", "1", ""), ("2", "2", "")], [])
    unknown = ("unknown", "unknown")
    assert names("id,label,split", "u,a,train") == ([(*unknown, "train")], [])
    of_none, (warning,) = names("id,label", "u,a")
    assert of_none == [(*unknown, "")]
    assert warning.startswith("mine.csv: has no column split, session or speaker, so no part")


def test_rows_of_one_recording_are_a_group(tmp_path):
    def groups(*lines):
        return [u.group for u in table.scan(write(tmp_path, *lines)).utterances]

    parts = ("u,a,a.wav,0,1", "v,b,a.wav,1,2", "w,b,b.wav,,")
    assert groups("id,label,wav,start,end", *parts) == ["a.wav", "a.wav", "w"]
    assert groups("id,label,wav", "u,a,a.wav", "v,b,b.wav") == ["", ""]
    parts = ("u,a,a.wav,b.wav", "v,b,b.wav,b.wav")
    assert groups("id,label,wav,video", *parts) == ["b.wav", "b.wav"]
    assert groups("id,label,wav,group", "u,a,a.wav,x", "v,b,a.wav,") == ["x", "v"]


def test_one_recording_under_two_ids_is_named(tmp_path):
    rows = ("u,a,p,a.wav,0,1", "v,b,p,a.wav,0,1", "w,b,p,a.wav,1,2", "x,b,q,,,", "y,b,q,,,")
    assert table.scan(write(tmp_path, "id,label,speaker,wav,start,end", *rows)).warnings == [
        "2 rows are of the same files and times as another (u, v)"
    ]


def test_strip_tags(tmp_path):
    file = write(tmp_path, "id,label,text", "u,a,[LAUGHTER] Well -- yes", "v,b,[SIGH]")
    assert [u.text for u in table.scan(file, strip_tags=True).utterances] == ["Well yes", None]


GOOD = ("u1,a,p", "u2,b,q")


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "its first line is ''; wanted a header with the columns id, label, in these letters"),
        (["ID,Label", "u,a"], "its first line is 'ID,Label'; wanted a header with the columns id"),
        (["id,emotion", "u,a"], "wanted a header with the columns id, label"),
        (["u1,a", "u2,b"], "its first line is 'u1,a'"),
        (["id,label"], "mine.csv: has no row below its header"),
        (["id,label,label", "u,a,b"], "has two columns 'label'; wanted each once"),
        (["id,label,speaker", *GOOD, "u1,a,p"], "row 4 repeats the id 'u1' of row 2"),
        (["id,label,speaker", *GOOD, ",a,p"], "row 4 has an empty id"),
        (["id,label,speaker", *GOOD, "u3,a,"], "row 4 has an empty speaker"),
        (["id,label,session", *GOOD, "u3,a,nan"], "row 4 has an empty session"),
        (["id,label,speaker", *GOOD, "u3,a"], "row 4 has 2 fields, wanted 3; a field with ','"),
        (["id,label,text", "u,a,Well, yes"], "row 2 has 4 fields, wanted 3"),
        (["id,label,text", 'u,a,"Well'], "line 2 is not CSV (unexpected end of data)"),
        (["id,label,text", 'u,a,"Well" yes'], "line 2 is not CSV (',' expected after '\"')"),
        (["id,label,start", "u,a,1:30"], "row 2 has start '1:30', wanted seconds, such as 12.5"),
        (["id;label;start", 'u;a;"1,5"'], "row 2 has start '1,5', wanted seconds"),
        (["id,label,start", "u,a,-1"], "row 2 has start '-1', wanted seconds"),
        (["id,label,start", "u,a,inf"], "row 2 has start 'inf', wanted seconds"),
        (["id,label,start,end", "u,a,2,1"], "row 2 ends at 1 s, before it starts at 2 s"),
        (
            ["id,label,split", "u,a,training"],
            "row 2 has split 'training', wanted one of train, val",
        ),
        (["id,label", "u,0.5"], "row 2 has label '0.5', which is no class; write a class' name"),
        (["id,label", "u,", "v,nan"], "no row has a label; for a pack without labels name the"),
        (
            ["id,label", *(f"u{k},l{k}" for k in range(101))],
            "has 101 different values, such as 'l0'",
        ),
        (
            ["id,label,wav", "u,a,x.wav", "v,b,y.wav"],
            "column wav: 2 of 2 files do not exist, row 2's",
        ),
        (["id,label,video", "u,a,sub"], "column video: 1 of 1 files do not exist"),
        (["id,label,wav", "u,a,x\0.wav"], "column wav: 1 of 1 files do not exist"),
        (["id,label,text", f"u,a,{'x' * 10_001}"], "row 2 has a text of 10001 characters"),
        (["id,label", "u\x07,a"], "row 2 has id 'u\\x07', wanted printable text"),
        (["id,label", " u,a"], "row 2 has id ' u', wanted no space around it"),
        (["id,label,speaker", "u,a,Zo\xeb", "v,b,Zoe\u0308"], "looks like 'Zo\\xeb' but is spelt"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path, lines, message):
    os.makedirs(tmp_path / "sub")
    with pytest.raises(UserError) as refused:
        table.scan(write(tmp_path, *lines))
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("coding, line", [("utf-16", 1), ("cp1252", 2)])
def test_another_encoding_is_one_line(tmp_path, coding, line):
    releases.write(f"{tmp_path}/mine.csv", "id,label,text\nu,a,caf\xe9\n".encode(coding))
    with pytest.raises(UserError, match=rf"line {line} is not UTF-8 .*save it as CSV in UTF-8"):
        table.scan(f"{tmp_path}/mine.csv")


@pytest.mark.parametrize(
    "classes, message",
    [
        ("", "--classes=: wanted names joined by commas, each once"),
        ("a,a", "--classes=a,a: wanted names joined by commas"),
        ("a,,b", "--classes=a,,b: wanted names joined by commas"),
    ],
)
def test_classes_that_are_none_are_one_line(tmp_path, classes, message):
    with pytest.raises(UserError) as refused:
        table.scan(write(tmp_path, "id,label", "u,a", "v,happy"), classes=classes)
    assert message in str(refused.value)


def test_a_class_without_rows_is_named(tmp_path):
    found = table.scan(write(tmp_path, "id,label,speaker", "u,a,p", "v,happy,q"), classes="a,hapy")
    assert found.warnings == [
        "no row has the label hapy, which --classes names; found a, happy",
        "1 rows have labels that --classes does not name, and are unlabelled (happy)",
    ]


def test_an_index_beyond_the_classes(tmp_path):
    with pytest.raises(UserError, match="row 3 has label '2', but --classes names 2: a,b"):
        table.scan(write(tmp_path, "id,label", "u,0", "v,2"), classes="a,b")


def test_whatever_stands_in_a_table_is_a_pack_or_one_line(tmp_path):
    """Damaged at random: what is taken, a pack takes too."""
    releases.write(f"{tmp_path}/a.wav", "sound")
    whole = (
        b'id,label,text,wav,start,end,speaker,split\nu1,angry,"Leave, me!",a.wav,1.5,2,anna,train\n'
        b"u2,,  ,,,,ben,dev\nu3,calm,nan,a.wav,,3,ben,test\n"
    )
    pieces = [*b',";\n\r\t\0\xff .-', *(b"nan", b"-1", b"1e999", b"inf", b"0.5", b"id", b"9" * 400)]
    pieces = [bytes([p]) if isinstance(p, int) else p for p in pieces]
    rng, taken, refused = random.Random(0), 0, []
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(damaged))
            damaged[place : place + rng.choice([0, 1, 8])] = rng.choice(pieces)
        releases.write(f"{tmp_path}/t.csv", bytes(damaged))
        try:
            found = table.scan(f"{tmp_path}/t.csv", classes=rng.choice([None, "angry,calm"]))
        except UserError as e:
            refused.append(str(e))
            continue
        columns = result.columns(found.utterances)
        utterances.check("pack", columns, range(len(found.utterances)))
        assert {*columns["label"]} <= {"", *found.class_names}
        taken += 1
    assert taken > 40 and len(refused) > 40
    assert all(len(line.splitlines()) == 1 for line in refused)
