"""What a pickle may do here: hold data. Everything else is refused by name and never runs."""

import builtins
import collections
import io
import os
import pickle
import pickletools
import sys
import zipfile

import numpy as np
import pytest

from cmarr_jax.data.importers import pickles, stores
from cmarr_jax.errors import UserError

ARRAY = np.arange(6, dtype="f4").reshape(2, 3)
CONTENT = {
    "array": ARRAY,
    "fortran": np.asfortranarray(ARRAY),
    "big endian": ARRAY.astype(">f8"),
    "empty": np.zeros((0, 3)),
    "rank 0": np.array(2.5),
    "bool": np.array([True, False]),
    "text": np.array(["ab", "é"]),
    "bytes": np.array([b"ab"]),
    "scalar": np.float32(1.5),
    "containers": [{1, 2}, (3, "x"), {"y": None}, frozenset([4]), 5 + 1j, b"z", bytearray(b"q")],
    "ordered": collections.OrderedDict(a=1),
    "default": collections.defaultdict(list, {1: [2]}),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_data_of_every_protocol_is_read(tmp_path, protocol):
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps(CONTENT, protocol))
    found = pickles.load(str(file))
    assert list(found) == list(CONTENT)
    for name, value in CONTENT.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
        elif name != "containers":
            assert found[name] == value and type(found[name]) is type(value)
    assert found["containers"] == CONTENT["containers"]


def test_numpy_1_and_python_2_names_are_read():
    text = pickle.dumps(ARRAY, 2).replace(b"numpy._core.", b"numpy.core.")
    np.testing.assert_array_equal(pickles.load_stream(io.BytesIO(text), "x"), ARRAY)
    # Written by Python 2: `cPickle.dumps({'v': set(['caf\xe9'])}, 2)`.
    old = b"\x80\x02}q\x01U\x01vq\x02c__builtin__\nset\nq\x03]q\x04U\x04caf\xe9q\x05a\x85q\x06Rq\x07s."
    assert pickles.load_stream(io.BytesIO(old), "x") == {"v": {"café"}}


class Runs:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(target):
    touch = f"touch {target}"
    python = f"open({target!r}, 'w').close()"
    return {
        "os.system": (Runs(os.system, touch), f"{os.system.__module__}.system"),
        "builtins.eval": (Runs(builtins.eval, python), ".eval, which is not data"),
        "builtins.exec": (Runs(builtins.exec, python), ".exec, which is not data"),
        "builtins.getattr": (Runs(builtins.getattr, "", "join"), ".getattr, which is not data"),
        "nested in a dict": ({"a": [ARRAY, (Runs(os.system, touch),)]}, "system"),
        "nested in an array": (np.array([{"a": Runs(os.system, touch)}], object), "system"),
        "as a factory": (collections.defaultdict(os.getcwd), "getcwd"),
        "a class": (Runs(zipfile.ZipFile, target, "w"), "zipfile"),
        "numpy's own loader": (Runs(np.load, target), "load"),
        "the codec": (Runs(__import__("_codecs").encode, "x", "rot13"), "codec 'rot13'"),
        "a function of the library": (Runs(pickles.load, target), "pickles.load"),
    }


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("case", attacks(""))
def test_an_attack_is_refused_by_name_and_runs_nothing(tmp_path, case, protocol):
    target = tmp_path / "touched"
    value, name = attacks(str(target))[case]
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(UserError, match="refused, it asks for") as error:
        pickles.load(str(file))
    assert name in str(error.value) and "\n" not in str(error.value)
    assert str(file) in str(error.value) and not target.exists()


def assembled(*opcodes: bytes) -> bytes:
    return b"\x80\x04" + b"".join(opcodes) + b"."


def test_old_opcodes_and_dotted_names_are_refused(tmp_path):
    target = tmp_path / "touched"
    command = f"touch {target}".encode()
    scripts = {
        "GLOBAL": b"cposix\nsystem\n(S'" + command + b"'\ntR.",
        "INST": b"(S'" + command + b"'\niposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\nS'" + command + b"'\no.",
        "dotted": assembled(b"\x8c\x05numpy", b"\x8c\x0ecore.os.system", b"\x93"),
        "admitted class, other attribute": assembled(
            b"\x8c\x0bcollections", b"\x8c\x14OrderedDict.__init__", b"\x93"
        ),
        "persistent id": b"Pwhatever\n.",
    }
    for name, script in scripts.items():
        pickletools.dis(script, io.StringIO())
        with pytest.raises(UserError, match="refused, it asks for"):
            pickles.load_stream(io.BytesIO(script), name)
    assert not target.exists()


def reconstructed(dtype_args, dtype_state, content):
    """The pickle of an array whose dtype and content are forged."""

    class Forged:
        def __reduce__(self):
            return np.dtype, dtype_args, dtype_state

    class Array:
        def __reduce__(self):
            rebuild, arguments, _ = ARRAY.__reduce__()
            return rebuild, arguments, (1, (1,), Forged(), False, content)

    return pickle.dumps(Array(), 2)


PLAIN = (3, "<", None, None, None, -1, -1, 0)
FIELDS = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 27)


@pytest.mark.parametrize(
    "script, match",
    [
        (reconstructed(("V8", False, True), FIELDS, b"12345678"), "the dtype 'V8'"),
        (reconstructed(("f8", False, True), FIELDS, b"12345678"), "a structured dtype"),
        (reconstructed(("f8,O", False, True), PLAIN, b"1" * 16), "the dtype 'f8,O'"),
        (reconstructed(("O8", False, True), PLAIN, b"12345678"), "does not fit its dtype"),
        (reconstructed(("f8", False, True), PLAIN, [1.0]), "does not fit its dtype"),
        (reconstructed(("f8", False, True), PLAIN, b"1234"), "no readable pickle"),
    ],
)
def test_forged_arrays_never_reach_numpys_own_unpickling(script, match):
    with pytest.raises(UserError, match=match):
        pickles.load_stream(io.BytesIO(script), "x")


@pytest.mark.parametrize(
    "script", [b"]r\xff\xff\xff\x7f.", b"]p99999999999\n.", b"]r\xff\xff\xff\x0f."]
)
def test_a_table_as_long_as_memory_is_refused(script):
    with pytest.raises(UserError, match="refused, it asks for a table of"):
        pickles.load_stream(io.BytesIO(script), "x")


def mutated(rng, seeds):
    """One seed with bytes flipped, cut out, doubled, or joined with a piece of another."""
    script = bytearray(seeds[rng.integers(len(seeds))])
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(script) + 1))
        to = min(len(script), at + int(rng.choice([1, 1, 1, 4, 20])))
        other = seeds[rng.integers(len(seeds))]
        start = int(rng.integers(len(other)))
        piece = {
            0: rng.bytes(to - at),
            1: b"",
            2: script[at:to] * 2,
            3: other[start : start + 30],
            4: bytes([rng.choice(np.frombuffer(OPCODES, np.uint8))]),
        }[int(rng.choice([0, 0, 0, 1, 2, 3, 4]))]
        script[at:to] = piece
    return bytes(script)


OPCODES = "".join(o.code for o in pickletools.opcodes).encode("latin1")
DATA = (
    dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex, bool, type(None),
    type, np.ndarray, np.generic, collections.OrderedDict, collections.defaultdict, pickles._Dtype,
)  # fmt: skip
_watched: list[str] | None = None


def watch(event, arguments):
    if _watched is not None and event.split(".")[0] in (
        "open", "import", "exec", "compile", "os", "subprocess", "socket", "shutil", "ctypes",
    ):  # fmt: skip
        _watched.append(f"{event} {arguments!r:.80}")


def test_a_thousand_mutated_pickles_are_data_or_one_line_and_do_nothing(tmp_path):
    global _watched
    rng = np.random.default_rng(0)
    target = tmp_path / "touched"
    plain = [{"id": ["u1", "u2"], "y": [0, 1]}, [ARRAY, ARRAY.T], list(range(300)), "text" * 20]
    values = [CONTENT, *plain * 3, *(value for value, _ in attacks(str(target)).values())]
    seeds = [pickle.dumps(v, p) for v in values for p in (0, 2, 4)]
    scripts = [mutated(rng, seeds) for _ in range(1000)]
    for protocol in (0, 2, 4):  # what Python imports at first use: its codecs
        pickles.load_stream(io.BytesIO(pickle.dumps(CONTENT, protocol)), "x")
    sys.addaudithook(watch)
    outcomes = collections.Counter()
    for script in scripts:
        _watched, refusal = [], "x: "
        try:
            found = pickles.load_stream(io.BytesIO(script), "x")
        except UserError as e:
            refusal = str(e)
            outcomes["refused" if "refused" in refusal else "damaged"] += 1
        else:
            functions = [getattr(pickles, n) for n in ("_encode", "_scalar", "_frombuffer")]
            functions += [pickles._reconstruct, pickles._NDARRAY]
            assert isinstance(found, DATA) or found in functions, type(found)
            outcomes["data"] += 1
        finally:
            events, _watched = _watched, None
        assert not events
        assert "\n" not in refusal and refusal.startswith("x: ")
    assert not target.exists()
    assert min(outcomes.values()) > 20 and sum(outcomes.values()) == 1000, outcomes


@pytest.mark.parametrize("damage", [b"", b"not a pickle", pickle.dumps(CONTENT)[:-40]])
def test_a_damaged_pickle_is_one_line(damage):
    with pytest.raises(UserError, match=r"^x: no readable pickle") as error:
        pickles.load_stream(io.BytesIO(damage), "x")
    assert "\n" not in str(error.value)


def test_object_arrays_in_npy_and_npz_go_the_same_way(tmp_path):
    target = tmp_path / "touched"
    good = np.array([{"id": ARRAY}, None], object)
    bad = np.array([Runs(os.system, f"touch {target}")], object)
    np.save(tmp_path / "good.npy", good, allow_pickle=True)
    np.save(tmp_path / "bad.npy", bad, allow_pickle=True)
    np.savez(tmp_path / "both.npz", good=good, bad=bad)
    found = pickles.load_npy(str(tmp_path / "good.npy"))
    np.testing.assert_array_equal(found[0]["id"], ARRAY)
    archive = stores.open_npz(str(tmp_path / "both.npz"))
    np.testing.assert_array_equal(archive["good"]()[0]["id"], ARRAY)
    with pytest.raises(UserError, match=r"bad\.npy: refused.*system"):
        pickles.load_npy(str(tmp_path / "bad.npy"))
    with pytest.raises(UserError, match=r"both\.npz: 'bad': refused.*system"):
        archive["bad"]()
    assert not target.exists()


def test_plain_npy_files_are_read_as_numpy_reads_them(tmp_path):
    file = str(tmp_path / "x.npy")
    for array in (ARRAY, np.asfortranarray(ARRAY), ARRAY[0, 0], np.zeros((0, 3)), np.array(["a"])):
        np.save(file, array)
        np.testing.assert_array_equal(pickles.load_npy(file), array)
    np.save(file, np.zeros(2, [("a", "f4"), ("b", "O")]), allow_pickle=True)
    with pytest.raises(UserError, match="a structured array"):
        pickles.load_npy(file)
    with open(file, "wb") as f:
        f.write(pickle.dumps(Runs(os.system, "true")))
    with pytest.raises(UserError, match="not a NumPy array"):
        pickles.load_npy(file)
