"""Files that PyTorch wrote, and files that only look like one."""

import os
import pickle
import struct
import zipfile

import jax
import numpy as np
import pytest

from cmarr_jax.errors import UserError
from cmarr_jax.extract import pretrained, pytorch_file, weights
from cmarr_jax.extract.models import bert, wav2vec2

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
PYTORCH = os.path.join(GOLDEN, "pytorch")
FILES = ("zip.bin", "sequence.bin")  # of PyTorch 2.13, see golden/make.py


def unicode(text):
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(n):
    return b"J" + struct.pack("<i", n)


def axes(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def a_tensor(
    key, num, shape, strides=None, *, start=0, kind="FloatStorage", rebuild="_rebuild_tensor_v2"
):
    strides = np.cumprod([1, *shape[::-1]])[:-1][::-1] if strides is None else strides
    storage = (
        b"(" + unicode("storage") + b"ctorch\n" + kind.encode() + b"\n" + unicode(key)
        + unicode("cpu") + number(num) + b"tQ"
    )  # fmt: skip
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n" + rebuild.encode() + b"\n(" + storage + number(start) + axes(shape)
        + axes(strides) + hooks + b"tR"
    )  # fmt: skip


def pickled(entries):
    return b"\x80\x02}(" + b"".join(unicode(k) + v for k, v in entries.items()) + b"u."


def write_zip(file, entries, storages, *, root="archive", compression=zipfile.ZIP_STORED, **extra):
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", pickled(entries))
        for key, raw in storages.items():
            archive.writestr(f"{root}/data/{key}", raw)
        for name, raw in extra.items():
            archive.writestr(f"{root}/{name}", raw)
    return str(file)


def write_sequence(file, entries, storages):
    parts = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    parts += [pickled(entries), pickle.dumps(sorted(storages), 2)]
    parts += [struct.pack("<q", len(raw) // 4) + raw for _, raw in sorted(storages.items())]
    with open(file, "wb") as f:
        f.write(b"".join(parts))
    return str(file)


WRITERS = (write_zip, write_sequence)


@pytest.mark.parametrize("file", FILES)
def test_what_pytorch_saved_is_read_to_the_bit(file):
    made = pytorch_file.read(os.path.join(PYTORCH, file))
    expected = np.load(os.path.join(PYTORCH, "expected.npz"))
    assert sorted(made) == sorted(expected.files)
    for name, array in made.items():
        assert array.dtype == expected[name].dtype and array.shape == expected[name].shape
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kind, module", [("bert", bert), ("wav2vec2", wav2vec2)])
def test_a_published_model_is_the_same_from_either_file(tmp_path, write, kind, module):
    safetensors = pytest.importorskip("safetensors.numpy")
    folder = os.path.join(GOLDEN, kind)
    tensors = safetensors.load_file(os.path.join(folder, "model.safetensors"))
    entries = {k: a_tensor(k, v.size, v.shape) for k, v in tensors.items()}
    raw = {k: np.ascontiguousarray(v, "<f4").tobytes() for k, v in tensors.items()}
    file = write(tmp_path / "pytorch_model.bin", entries, raw)
    made = module.from_config("config.json", pretrained.config(folder), np.dtype("f4"))
    names = module.tensors(made)
    plain = weights.load(os.path.join(folder, "model.safetensors"), made, names)
    jax.tree.map(np.testing.assert_array_equal, weights.load(file, made, names), plain)


RAW = {"0": np.arange(6, dtype="<f4").tobytes()}
GOOD = {"w": a_tensor("0", 6, (2, 3))}


@pytest.mark.parametrize("write", WRITERS)
def test_the_writers_of_this_file_write_what_is_read(tmp_path, write):
    made = pytorch_file.read(write(tmp_path / "x.bin", GOOD, RAW))
    np.testing.assert_array_equal(made["w"], np.arange(6).reshape(2, 3))


def test_the_other_byte_order(tmp_path):
    raw = {"0": np.arange(6, dtype=">f4").tobytes()}
    made = pytorch_file.read(write_zip(tmp_path / "x.bin", GOOD, raw, byteorder=b"big"))
    np.testing.assert_array_equal(made["w"], np.arange(6).reshape(2, 3))


BAD = {
    "beyond its storage": {"w": a_tensor("0", 6, (3, 3))},
    "starts beyond": {"w": a_tensor("0", 6, (2, 3), start=1)},
    "starts before": {"w": a_tensor("0", 6, (2, 3), start=-1)},
    "huge": {"w": a_tensor("0", 6, (2**30, 2**30, 2**30), (0, 0, 0))},
    "strides backwards": {"w": a_tensor("0", 6, (2, 3), (-3, 1))},
    "strides far": {"w": a_tensor("0", 6, (2, 3), (2**30, 1))},
    "negative axis": {"w": a_tensor("0", 6, (-2, 3), (3, 1))},
    "axes do not fit": {"w": a_tensor("0", 6, (2, 3), (1,))},
    "other size": {"w": a_tensor("0", 5, (5,))},
    "negative size": {"w": a_tensor("0", -1, (1,))},
    "no such storage": {"w": a_tensor("1", 6, (2, 3))},
    "a path": {"w": a_tensor("../data.pkl", 6, (2, 3))},
    "other dtype": {"w": a_tensor("0", 6, (2, 3), kind="DoubleStorage")},
    "unknown storage": {"w": a_tensor("0", 6, (2, 3), kind="QInt8Storage")},
    "unknown function": {"w": a_tensor("0", 6, (2, 3), rebuild="_rebuild_device_tensor")},
    "a program": {"w": b"cos\nsystem\n(X\x04\x00\x00\x00exittR"},
    "no tensor": {"w": unicode("words")},
    "a number": {"w": number(3)},
    "nothing": {},
}  # fmt: skip


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("case", BAD)
def test_what_is_no_tensor_is_one_line(tmp_path, write, case):
    file = write(tmp_path / "x.bin", BAD[case], RAW)
    with pytest.raises(UserError) as error:
        pytorch_file.read(file)
    assert file in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_short_anywhere_is_one_line(tmp_path, file):
    with open(os.path.join(PYTORCH, file), "rb") as f:
        content = f.read()
    for end in range(0, len(content), 97):
        (tmp_path / "x.bin").write_bytes(content[:end])
        with pytest.raises(UserError) as error:
            pytorch_file.read(str(tmp_path / "x.bin"))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", FILES)
def test_flipped_bytes_are_read_or_refused_in_one_line(tmp_path, rng, file):
    with open(os.path.join(PYTORCH, file), "rb") as f:
        content = f.read()
    for _ in range(100):
        changed = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        (tmp_path / "x.bin").write_bytes(changed)
        said = ""
        try:
            pytorch_file.read(str(tmp_path / "x.bin"))
        except UserError as e:
            said = str(e)
        assert "\n" not in said


def test_storages_are_not_unpacked(tmp_path):
    raw = {"0": bytes(24)}
    file = write_zip(tmp_path / "x.bin", GOOD, raw, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"data.pkl is compressed; wanted weights that PyTorch"):
        pytorch_file.read(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n", b"\x00" * 64],
)
def test_what_a_failed_download_leaves_is_one_line(tmp_path, content):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"x.bin: ") as error:
        pytorch_file.read(str(tmp_path / "x.bin"))
    assert "\n" not in str(error.value)


def test_no_such_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"x.bin: No such file"):
        pytorch_file.read(str(tmp_path / "x.bin"))
