"""Every malformed pack is one line that names the file and the row or field, and exit code 2."""

import csv
import io
import json
import os
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmarr_jax.data import __main__ as command
from cmarr_jax.data import pack, pipeline
from cmarr_jax.errors import UserError
from tests.conftest import write_pack


def manifest(**fields):
    def damage(path):
        file = os.path.join(path, "pack.json")
        with open(file) as f:
            content = json.load(f) | fields
        write("pack.json", json.dumps({k: v for k, v in content.items() if v is not None}))(path)

    return damage


def write(name, content):
    def damage(path):
        mode = {"mode": "wb"} if isinstance(content, bytes) else {"mode": "w", "newline": ""}
        with open(os.path.join(path, name), **mode) as f:
            f.write(content)

    return damage


def remove(name):
    return lambda path: os.remove(os.path.join(path, name))


def rows(change):
    """Rewrites utterances.csv after `change(rows)`; the header is row 0."""

    def damage(path):
        file = os.path.join(path, "utterances.csv")
        with open(file, newline="") as f:
            table = list(csv.reader(f))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(change(table) or table)
        write("utterances.csv", text.getvalue())(path)

    return damage


def cell(row, column, value):
    """`row` counts the header as 1, as messages do."""

    def change(table):
        table[row - 1][table[0].index(column)] = value

    return rows(change)


def column(name, values):
    """Adds or replaces a column; `values` of (row index, row) -> str."""

    def change(table):
        if name not in table[0]:
            table[0].append(name)
            for row in table[1:]:
                row.append("")
        k = table[0].index(name)
        for i, row in enumerate(table[1:]):
            row[k] = values(i, row)

    return rows(change)


def array(name, change):
    def damage(path):
        file = os.path.join(path, name)
        made = change(np.load(file))
        np.save(file, made, allow_pickle=True)

    return damage


def entry(k, value):
    def change(offsets):
        offsets[k] = value
        return offsets

    return array("text.offsets.npy", change)


def huge_header(path):
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 12), }" % 2**62
    head += b" " * (118 - len(head)) + b"\n"
    write("text.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)(path)


def deep_header(path):
    head = b"(" * 5000
    write("text.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)(path)


def as_npz(path):
    np.savez(os.path.join(path, "x.npz"), np.zeros((3, 12), "f4"))
    os.replace(os.path.join(path, "x.npz"), os.path.join(path, "text.npy"))


def as_folder(path):
    os.remove(os.path.join(path, "text.npy"))
    os.mkdir(os.path.join(path, "text.npy"))


def spreadsheet(path):
    """With a byte order mark and Windows' line ends."""
    with open(os.path.join(path, "utterances.csv"), "rb") as f:
        content = f.read().replace(b"\n", b"\r\n")
    write("utterances.csv", b"\xef\xbb\xbf" + content)(path)


def append(name, content):
    def damage(path):
        with open(os.path.join(path, name) if name else path, "ab") as f:
            f.write(content)

    return damage


def nothing_left(path):
    """Utterance 3 loses its rows in every modality; the arrays stay consistent."""
    for m in ("text", "speech", "video"):
        offsets = np.load(os.path.join(path, f"{m}.offsets.npy"))
        features = np.load(os.path.join(path, f"{m}.npy"))
        gone = offsets[4] - offsets[3]
        np.save(
            os.path.join(path, f"{m}.npy"), np.delete(features, slice(offsets[3], offsets[4]), 0)
        )
        offsets[4:] -= gone
        np.save(os.path.join(path, f"{m}.offsets.npy"), offsets)


def poison(value):
    def change(features):
        features[7, 3] = value
        return features

    return array("speech.npy", change)


HEAD = "id,session,speaker,label\n"
READ = {  # name: (damage, what the line must say)
    "no folder": (shutil.rmtree, "no such folder"),
    "a file instead of a folder": (lambda p: (shutil.rmtree(p), open(p, "w").close()), "no such folder"),
    "no manifest": (remove("pack.json"), "pack.json: missing"),
    "manifest is a folder": (lambda p: (os.remove(p + "/pack.json"), os.mkdir(p + "/pack.json")), "pack.json: cannot be read"),
    "manifest cut": (write("pack.json", "{"), "pack.json: not JSON"),
    "manifest not UTF-8": (write("pack.json", b"\xff\xfe{}"), "pack.json: not JSON"),
    "manifest nests too deep": (write("pack.json", "[" * 100_000), "pack.json: not a manifest"),
    "manifest a list": (write("pack.json", "[]"), "found a list, wanted an object"),
    "manifest field twice": (write("pack.json", '{"classes": [], "classes": []}'), "the field 'classes' stands twice"),
    "from the future": (manifest(format_version=2), "format_version is 2, this library reads 1"),
    "version true": (manifest(format_version=True), "format_version is True"),
    "no version": (manifest(format_version=None), "format_version is None"),
    "corpus a number": (manifest(corpus=3), "field 'corpus' is 3, wanted a str"),
    "corpus of two lines": (manifest(corpus="a\nb"), "'corpus' is 'a\\nb', wanted a printable name"),
    "no classes": (manifest(classes=[]), "'classes' is [], wanted"),
    "class twice": (manifest(classes=["a", "a", "b", "c"]), "'classes' has a name twice"),
    "class with a tab": (manifest(classes=["a\t", "b", "c"]), "'classes' is"),
    "modality up the tree": (manifest(modalities=["../../x"], dims={"../../x": 3}), "modality '../../x' must be a plain word"),
    "modality of no file": (manifest(modalities=["text", "audio"], dims={"text": 12, "audio": 3}), "audio.npy: missing"),
    "dims true": (manifest(dims={"text": True, "speech": 10, "video": 6}), "dims['text'] is True, wanted a positive integer"),
    "dims lack one": (manifest(dims={"text": 12}), "dims['speech'] is None"),
    "dims wrong": (manifest(dims={"text": 7, "speech": 10, "video": 6}), "text.npy: shape is (", "wanted (rows, 7)"),
    "no table": (remove("utterances.csv"), "utterances.csv: missing"),
    "table empty": (write("utterances.csv", ""), "utterances.csv: header is ''"),
    "table of a header": (write("utterances.csv", HEAD), "has no utterance below its header"),
    "table in Latin-1": (write("utterances.csv", HEAD.encode() + b"u,1,F\xe9,a\n"), "line 2 is not UTF-8"),
    "table by semicolons": (write("utterances.csv", HEAD.replace(",", ";")), "header is 'id;session;speaker;label'"),
    "column twice": (write("utterances.csv", "id,session,speaker,label,id\n"), "each once"),
    "unknown column": (rows(lambda t: t[0].__setitem__(4, "grp")), "header is 'id,session,speaker,label,grp'"),
    "quote left open": (append("utterances.csv", b'"u,1,F,a,g\n'), "line 62 is not CSV"),
    "quote in the middle": (append("utterances.csv", b'"u"x,1,F,a,g\n'), "line 62 is not CSV"),
    "field too few": (rows(lambda t: t[4].pop() and None), "row 5 has 4 fields, wanted 5"),
    "id twice": (cell(9, "id", "u000"), "row 9 repeats the id 'u000' of row 2"),
    "id empty": (cell(3, "id", ""), "row 3 has an empty id"),
    "id with a line break": (cell(3, "id", "a\nb"), "row 3 has id 'a\\nb', wanted printable text"),
    "id with a NUL": (cell(3, "id", "a\0"), "row 3 has id 'a\\x00'"),
    "id turned right to left": (cell(3, "id", "a\u202eb"), "row 3 has id"),
    "id of a megabyte": (cell(3, "id", "x" * 100_000), "row 3 has a id of 100000 characters"),
    "speaker with a space": (cell(4, "speaker", " 1F"), "row 4 has speaker ' 1F', wanted no space around it"),
    "speaker in two spellings": (rows(lambda t: (t[1].__setitem__(2, "é"), t[2].__setitem__(2, "e\u0301"), None)[2]), "row 3 has speaker 'e\\u0301'", "'\\xe9'"),
    "session empty": (cell(5, "session", ""), "row 5 has an empty session"),
    "label unknown": (cell(6, "label", "zz"), "row 6 has label 'zz'"),
    "label in capitals": (cell(6, "label", "A"), "row 6 has label 'A'"),
    "split unknown": (column("split", lambda i, r: "held" if i == 3 else "train"), "row 5 has split 'held', wanted one of train, val, test"),
    "start no number": (column("start", lambda i, r: "1:30"), "row 2 has start '1:30', wanted seconds"),
    "start NaN": (column("start", lambda i, r: "nan"), "row 2 has start 'nan'"),
    "ends before it starts": (lambda p: (column("start", lambda i, r: "3")(p), column("end", lambda i, r: "2.5")(p)), "row 2 ends at 2.5 s, before it starts at 3 s"),
    "no features": (remove("text.npy"), "text.npy: missing"),
    "features a folder": (as_folder, "text.npy: not a plain NumPy array"),
    "features empty": (write("text.npy", b""), "text.npy: not a plain NumPy array"),
    "features cut": (lambda p: os.truncate(p + "/text.npy", 200), "text.npy: not a plain NumPy array"),
    "features go on": (append("text.npy", b"12345678"), "text.npy: goes on for 8 bytes after its array"),
    "features an archive": (as_npz, "text.npy: found a NpzFile"),
    "features a pickle": (write("text.npy", pickle.dumps([1.0])), "text.npy: not a plain NumPy array"),
    "array of objects": (array("text.npy", lambda x: np.array([{}])), "text.npy: not a plain NumPy array (Array can't be memory-mapped: Python objects"),
    "array of fields": (array("text.npy", lambda x: np.zeros(3, [("a", "f4")])), "text.npy: dtype is |V4"),
    "header beyond memory": (huge_header, "text.npy: not a plain NumPy array"),
    "header of brackets": (deep_header, "text.npy: not a plain NumPy array"),
    "integers": (array("text.npy", np.int16), "text.npy: dtype is <i2"),
    "three axes": (array("text.npy", lambda x: x[None]), "text.npy: shape is (1, "),
    "a NaN": (poison(np.nan), "speech.npy: row 7 (utterances.csv row "),
    "an infinity": (poison(-np.inf), "speech.npy: row 7 (utterances.csv row "),
    "no offsets": (remove("text.offsets.npy"), "text.offsets.npy: missing"),
    "offsets of 32 bits": (array("text.offsets.npy", np.int32), "text.offsets.npy: found <i4"),
    "offsets without sign": (array("text.offsets.npy", np.uint64), "text.offsets.npy: found <u8"),
    "offsets big-endian": (array("text.offsets.npy", lambda x: x.astype(">i8")), "text.offsets.npy: found >i8"),
    "offsets too few": (array("text.offsets.npy", lambda x: x[:-1]), "wanted '<i8' of shape (61,)"),
    "offsets start late": (entry(0, 1), "runs from 1 to"),
    "offsets past the end": (entry(-1, 10**6), "runs from 0 to 1000000, wanted 0 to"),
    "offsets go back": (entry(5, 0), "goes back at entry 5", "(utterances.csv row 6)"),
    "an offset past the end between": (entry(5, 10**6), "goes back at entry 6, from 1000000"),
    "offsets that wrap around": (lambda p: (entry(5, 2**63 - 1)(p), entry(6, -(2**63))(p)), "goes back at entry 6"),
    "rows that no offset owns": (array("text.npy", lambda x: np.concatenate([x, x])), "the rows of text.npy"),
    "utterance with nothing": (nothing_left, "utterances.csv: row 5, 'u003', has no row in any modality"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("misuse") / "sound").path


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "pack").as_posix()


def state(folder):
    return {
        os.path.join(parent, f): os.stat(os.path.join(parent, f)).st_mtime_ns
        for parent, _, files in os.walk(folder)
        for f in files
    }


def refused(command, path, arguments, capsys):
    """The one line with which a command refuses the pack, and writes nothing."""
    before = state(os.path.dirname(path))
    assert command(arguments) == 2
    assert state(os.path.dirname(path)) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and len(line) < 600
    return line


@pytest.mark.parametrize("case", READ)
def test_a_malformed_pack_is_one_line_and_exit_code_2(copy, case, capsys):
    damage, *wanted = READ[case]
    damage(copy)
    line = refused(command.main, copy, ["validate", copy], capsys)
    assert copy in line
    for text in wanted:
        assert text in line, line
    for loader in ("numpy", "tfds"):
        with pytest.raises(UserError):
            pipeline.load(pack=copy, loader=loader)
    assert not os.path.exists(os.path.join(copy, "tfds"))


PROTOCOLS = {  # name: (damage, scheme, what the line must say)
    "nothing labelled": (column("label", lambda i, r: ""), "session", "labels are of 0 class, wanted two or more"),
    "one class alone": (column("label", lambda i, r: "a"), "session", "labels are of 1 class"),
    "one session": (column("session", lambda i, r: "1"), "session", "its train part is empty; wanted two sessions"),
    "speaker in two sessions": (cell(2, "speaker", "3M"), "session", "speaker '3M' is in the test part", "protocol.scheme=speaker"),
    "a class of one session": (column("label", lambda i, r: "c" if r[1] == "2" and i % 3 else "ab"[i % 2]), "session", "fold 2 (session 2): class 'c' is tested but never trained on"),
    "dialogue in two sessions": (column("group", lambda i, r: str(i % 20)), "session", "group '0' is in the test part and in the training part", "differ from session to session"),
    "dialogue of all": (column("group", lambda i, r: r[1]), "session", "its val part is empty; raise protocol.val_fraction"),
    "one speaker a session": (column("speaker", lambda i, r: r[1]), "speaker", "its val part is empty", "use protocol.scheme=session"),
    "no split column": (lambda p: None, "split", "utterances.csv has no split column"),
    "split without a test part": (column("split", lambda i, r: "train"), "split", "its test part is empty; wanted labelled rows with split=test"),
    "split without training": (column("split", lambda i, r: "test" if i % 2 else "val"), "split", "its train part is empty"),
    "split cuts a dialogue": (column("split", lambda i, r: "test" if i % 2 else "train"), "split", "group '1_0' is in the test part"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROTOCOLS)
def test_a_protocol_that_cannot_be_honest_is_refused_with_its_remedy(copy, case, capsys):
    damage, scheme, *wanted = PROTOCOLS[case]
    damage(copy)
    line = refused(command.main, copy, ["audit", copy, f"--scheme={scheme}"], capsys)
    for text in wanted:
        assert text in line, line


ODD = {  # name: (damage, what `validate` warns of; "" = nothing)
    "class without utterances": (manifest(classes=["a", "b", "c", "d"]), "class 'd' has no utterance"),
    "session of one class": (column("label", lambda i, r: "a" if r[1] == "2" else "abc"[i % 3]), "session 2 has utterances of one class"),
    "one speaker in two sessions": (cell(2, "speaker", "3M"), "protocol.scheme=session cannot be used"),
    "ids as paths": (column("id", lambda i, r: f"../../x/{i}"), ""),
    "ids in other scripts": (column("id", lambda i, r: f"話者-{i}-é²"), ""),
    "sessions in other scripts": (column("session", lambda i, r: f"²{r[1]}話"), ""),
    "ids as formulas": (column("id", lambda i, r: f"=cmd|' /C calc'!A{i}"), "a spreadsheet takes for a formula"),
    "ids with commas and quotes": (column("id", lambda i, r: f'a,"{i}";b'), ""),
    "texts with line breaks": (column("text", lambda i, r: 'he said\n"yes", twice'), ""),
    "saved by a spreadsheet": (spreadsheet, ""),
    "unlabelled utterances": (column("label", lambda i, r: "" if i % 5 == 0 else r[3]), ""),
    "rows by columns": (array("text.npy", np.asfortranarray), ""),
    "numbers beyond float16": (array("text.npy", lambda x: x * np.float32(1e6)), "text: has numbers beyond 10,000"),
    "a modality that nobody has": (lambda p: (array("video.npy", lambda x: x[:0])(p), array("video.offsets.npy", np.zeros_like)(p)), "video: 100% of the utterances lack it"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_but_legal_is_read_and_at_most_warned_of(copy, case, capsys):
    damage, warning = ODD[case]
    damage(copy)
    assert command.main(["validate", copy]) == 0
    warnings = [x for x in capsys.readouterr().out.splitlines() if x.startswith("warning")]
    assert warning in "".join(warnings) and bool(warnings) == bool(warning)
    corpus = pipeline.load(pack=copy, loader="numpy", length=4)
    assert all(np.isfinite(x).all() for x in corpus.features.values())


def test_enormous_sequences_are_pooled_and_warned_of(tmp_path, capsys):
    lengths = [3] * 9 + [300_000]
    path = str(tmp_path / "pack")
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(n, 2)).astype("f2") for n in lengths]
    columns = {"id": list("abcdefghij"), "session": "1122334455", "speaker": "1122334455"}
    pack.write(
        path, name="x", class_names="ab", columns=columns | {"label": "abababababa"[:10]},
        sequences={"text": arrays}, provenance={},
    )  # fmt: skip
    assert command.main(["validate", path]) == 0
    assert "'j' has 300000 rows, the median utterance 3" in capsys.readouterr().out
    corpus = pipeline.load(pack=path, loader="numpy", length=1)
    np.testing.assert_allclose(
        corpus.features["text"][-1, 0], arrays[-1].mean(axis=0, dtype=float), atol=1e-3
    )


CHANGES = {
    "written anew": lambda file: os.utime(file, ns=(1, 1)),
    "replaced": lambda file: (shutil.copy(file, file + "2"), os.replace(file + "2", file)),
    "removed": os.remove,
    "cut short": lambda file: os.truncate(file, 400),
    "grown": lambda file: append("", b"1234")(file),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("loader", ["numpy", "tfds"])
def test_files_that_change_while_being_read_are_named(copy, change, loader, monkeypatch):
    file, count, plain = os.path.join(copy, "text.npy"), [], pack.Pack.sequence

    def sequence(self, modality, i):
        count.append(i)
        if len(count) == 20:
            CHANGES[change](file)
        return plain(self, modality, i)

    monkeypatch.setattr(pack.Pack, "sequence", sequence)
    with pytest.raises(
        UserError, match=r"text\.npy: .*(changed while|cut short|cannot be read)"
    ) as error:
        pipeline.load(pack=copy, loader=loader, length=2)
    assert "\n" not in str(error.value)
    prepared = [f for _, _, files in os.walk(os.path.join(copy, "tfds")) for f in files]
    assert set(prepared) <= {"lock"}  # nothing that a later run would take for the pack


WRITES = {
    "modality up the tree": ({"sequences": {"../../x": [np.ones((1, 2), "f4")] * 2}}, "must be a plain word"),
    "no modality": ({"sequences": {}}, "no modality given"),
    "an array too few": ({"sequences": {"text": [np.ones((1, 2), "f4")]}}, "1 arrays, wanted 2"),
    "objects": ({"sequences": {"text": [np.array([[{}]])] * 2}}, "np.zeros((0, dims), np.float32)"),
    "another width": ({"sequences": {"text": [np.ones((1, k), "f4") for k in (2, 3)]}}, "utterance 1: found float32 (1, 3)"),
    "a NaN": ({"sequences": {"text": [np.full((1, 2), np.nan, "f4")] * 2}}, "has no row in any modality"),
    "label too few": ({"columns": {"id": "uv", "session": "12", "speaker": "12", "label": "a"}}, "column label has 1 values, wanted 2"),
    "no speakers": ({"columns": {"id": "uv", "session": "12", "label": "ab"}}, "columns are id,session,label"),
    "half a character": ({"columns": {"id": ["u", "\ud800"], "session": "12", "speaker": "12", "label": "ab"}}, "UTF-8 cannot write"),
    "id twice": ({"columns": {"id": "uu", "session": "12", "speaker": "12", "label": "ab"}}, "row 3 repeats the id 'u'"),
    "no name": ({"name": ""}, "'corpus' is ''"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRITES)
def test_nothing_is_written_of_what_is_no_pack(tmp_path, case):
    given_, wanted = WRITES[case]
    good = dict(
        name="x",
        class_names="ab",
        provenance={},
        columns={"id": "uv", "session": "12", "speaker": "12", "label": "ab"},
        sequences={"text": [np.ones((1, 2), "f4")] * 2},
    )
    os.mkdir(tmp_path / "a")
    with pytest.raises(UserError) as error:
        pack.write(str(tmp_path / "a" / "pack"), **(good | given_))
    assert wanted in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(tmp_path / "a") == [] and os.listdir(tmp_path) == ["a"]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_flipped_bytes_are_read_or_refused_in_one_line(sound, tmp_path_factory, data):
    """Of every file's first bytes, where headers are, and of whole text files."""
    path = shutil.copytree(sound, tmp_path_factory.mktemp("flip") / "pack").as_posix()
    name = data.draw(st.sampled_from(sorted(os.listdir(path))))
    file = os.path.join(path, name)
    with open(file, "rb") as f:
        content = bytearray(f.read())
    reach = len(content) if not name.endswith(".npy") else 160
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, reach - 1))] = data.draw(st.integers(0, 255))
    with open(file, "wb") as f:
        f.write(
            content[: data.draw(st.integers(0, len(content)))]
            if data.draw(st.booleans())
            else content
        )
    refusal = path
    try:
        pack.read(path)
    except UserError as e:
        refusal = str(e)
    finally:
        shutil.rmtree(path)
    assert "\n" not in refusal and path in refusal
