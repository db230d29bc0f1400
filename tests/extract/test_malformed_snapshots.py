"""Models' folders with a fault each, through the command: one line, nothing run, nothing left.

A case changes the tiny model of `golden/` and says what the line names. The commands in hostile
pickles and code make a file; it must not be there afterwards.
"""

import json
import os
import pickle
import struct
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("safetensors")
pytest.importorskip("transformers")

import safetensors.numpy

from cmarr_jax.extract import __main__ as command
from tests.extract import releases, stand_in
from tests.extract.test_pytorch_file import (
    GOOD,
    a_tensor,
    number,
    pickled,
    unicode,
    write_sequence,
    write_zip,
)

ST, BIN = "model.safetensors", "pytorch_model.bin"
ST_INDEX, BIN_INDEX = f"{ST}.index.json", f"{BIN}.index.json"
QUERY = "encoder.layer.0.attention.self.query"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 438\n"
CASES = {}


def case(match, kind="bert"):
    """Registers a function that spoils a snapshot's `files`; `match` must stand in the line."""

    def register(spoil):
        name = spoil.__name__.strip("_").replace("_", " ")
        assert name not in CASES
        CASES[name] = (kind, spoil, match)
        return spoil

    return register


def cases(matches, kind="bert"):
    """As `case`, of one function and a table: name -> (argument, match)."""

    def register(spoil):
        for name, (argument, match) in matches.items():

            def bound(files, context, argument=argument):
                spoil(files, context, argument)

            assert name not in CASES
            CASES[name] = (kind, bound, match)
        return spoil

    return register


class Context:
    """What a case needs besides the files."""

    def __init__(self, folder, scratch, canary):
        self.folder, self.scratch, self.canary = folder, scratch, canary

    @property
    def program(self):
        """A pickle's part that would make the canary."""
        shell = f"touch {self.canary}"
        return b"cos\nsystem\n(" + unicode(shell) + b"tR"


def change_tensors(files, change):
    tensors = stand_in.tensors_of(files)
    change(tensors)
    files[ST] = safetensors.numpy.save(tensors)


def as_safetensors(header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def as_bin(files, context, entries, storages, write=write_zip, **options):
    del files[ST]
    file = write(os.path.join(context.scratch, "made.bin"), entries, storages, **options)
    with open(file, "rb") as f:
        files[BIN] = f.read()


def in_shards(files, context, form=ST):
    made = stand_in.in_shards(files, context.scratch, form)
    files.clear()
    files.update(made)


def change_json(files, name, **fields):
    files[name] = json.dumps(json.loads(files[name]) | fields).encode()


# Tensors that are no model's.


def put(name, value):
    return lambda tensors: tensors.update(
        {name: value(tensors[name]) if callable(value) else value}
    )


def spoilt(value):
    def change(tensor):
        tensor = tensor.copy()
        tensor.flat[-1] = value
        return tensor

    return change


@cases({
    "a tensor of another shape": (put(f"{QUERY}.weight", np.ones((16, 17), "f4")), f"{ST}: tensor {QUERY}.weight is (17, 16)"),
    "a tensor of more axes": (put(f"{QUERY}.weight", np.ones((16, 16, 1), "f4")), f"{ST}: tensor {QUERY}.weight is"),
    "a tensor of no axis": (put(f"{QUERY}.bias", np.ones((), "f4")), f"{ST}: tensor {QUERY}.bias is ()"),
    "a missing tensor": (lambda t: t.pop(f"{QUERY}.weight"), f"{ST}: lacks 1 of 37 tensors, among them {QUERY}.weight"),
    "a tensor too many": (lambda t: t.update({"encoder.layer.7.x": np.ones(1, "f4")}), f"{ST}: holds 1 tensors that the model has no place for, among them encoder.layer.7.x"),
    "a tensor twice": (lambda t: t.update({f"bert.{QUERY}.bias": np.ones(16, "f4")}), f"{ST}: holds {QUERY}.bias twice, once under a prefix"),
    "no tensors": (lambda t: t.clear(), f"{ST}: lacks 37 of 37"),
    "nan": (put(f"{QUERY}.weight", spoilt(np.nan)), f"{ST}: {QUERY}.weight holds numbers that are NaN, infinite"),
    "infinity": (put(f"{QUERY}.weight", spoilt(-np.inf)), f"{ST}: {QUERY}.weight holds numbers that are NaN, infinite"),
    "beyond float32": (put(f"{QUERY}.bias", np.full(16, 1e300)), f"{ST}: {QUERY}.bias holds numbers that are NaN, infinite or beyond float32"),
    "nan in half precision": (put(f"{QUERY}.bias", np.full(16, np.nan, ml_dtypes.bfloat16)), f"{ST}: {QUERY}.bias holds numbers that are NaN"),
    "complex numbers": (put(f"{QUERY}.bias", np.ones(16, np.complex64)), f"{ST}: {QUERY}.bias is stored as C64"),
    "int8 with scales": (lambda t: t.update({f"{QUERY}.weight": np.ones((16, 16), "i1"), f"{QUERY}.SCB": np.ones(16, "f4")}), f"{ST}: {QUERY}.weight is stored as int8"),
    "four bits in bytes": (lambda t: t.update({f"{QUERY}.weight": np.ones((128, 1), "u1")}), f"{ST}: {QUERY}.weight is stored as uint8"),
    "a name of two lines": (lambda t: t.update({"a\nb": np.ones(1, "f4")}), f"{ST}: holds 1 tensors"),
})  # fmt: skip
def _(files, context, change):
    change_tensors(files, change)


F32 = {"dtype": "F32", "shape": [1]}


@cases({
    "safetensors of no bytes": (b"", f"{ST}: empty"),
    "safetensors of three bytes": (b"abc", f"{ST}: not a whole safetensors file"),
    "a header longer than the file": (as_safetensors({"a": {**F32, "data_offsets": [0, 4]}}, bytes(4), 999), f"{ST}: not a whole"),
    "a header of an exabyte": (as_safetensors({}, b"", 2**60), f"{ST}: not a whole"),
    "a header that is not utf-8": (as_safetensors(b'{"\xff": 1}'), f"{ST}: not a whole"),
    "a header that is no object": (as_safetensors(b"[1]"), f"{ST}: not a whole"),
    "offsets that overlap": (as_safetensors({"a": {**F32, "data_offsets": [0, 4]}, "b": {**F32, "data_offsets": [0, 4]}}, bytes(4)), f"{ST}: not a whole"),
    "offsets with a hole": (as_safetensors({"a": {**F32, "data_offsets": [0, 4]}, "b": {**F32, "data_offsets": [8, 12]}}, bytes(12)), f"{ST}: not a whole"),
    "offsets beyond the file": (as_safetensors({"a": {**F32, "data_offsets": [0, 4]}}, bytes(2)), f"{ST}: not a whole"),
    "a shape without end": (as_safetensors({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, bytes(4)), f"{ST}: not a whole"),
    "a negative shape": (as_safetensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)), f"{ST}: not a whole"),
    "a name twice in a header": (as_safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)), f"{ST}: not a whole safetensors file ('a' is there twice)"),
    "float8": (as_safetensors({f"{QUERY}.weight": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, bytes(2)), f"{ST}: {QUERY}.weight is stored as F8_E4M3"),
    "float4": (as_safetensors({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, bytes(1)), f"{ST}: a is stored as F4"),
    "a dtype that nobody knows": (as_safetensors({"a": {**F32, "dtype": "F33", "data_offsets": [0, 4]}}, bytes(4)), f"{ST}: not a whole"),
    "a git-lfs pointer for weights": (POINTER, f"{ST}: a Git-LFS pointer in the place of the file; run git lfs pull"),
    "a page of html for weights": (b"<!doctype html><title>404</title>", f"{ST}: not a whole"),
})  # fmt: skip
def _(files, context, content):
    files[ST] = content


@case(f"{ST}: not a whole safetensors file")
def cut_safetensors(files, context):
    files[ST] = files[ST][:-100]


@case(f"{ST}: a folder; wanted a file")
def a_folder_for_weights(files, context):
    files[f"{ST}/x"] = files.pop(ST)


@case(f"{ST}: a link that leads out of its folder, to ")
def a_link_out_of_the_folder(files, context):
    outside = os.path.join(context.scratch, "secret")
    with open(outside, "wb") as f:
        f.write(files.pop(ST))
    os.symlink(outside, os.path.join(context.folder, ST))


@case(f"{ST}: a link to nowhere, which is not there")
def a_link_to_nothing(files, context):
    del files[ST]
    os.symlink("nowhere", os.path.join(context.folder, ST))


@case("no weights that are read (it has tf_model.h5); wanted one of model.safetensors")
def weights_of_another_library(files, context):
    files["tf_model.h5"] = files.pop(ST)


# What PyTorch never saved.


RAW = {"0": bytes(24)}


@cases({
    "a pickle that runs a command": ("program", "refused, it asks for os.system, which is not data"),
    "a pickle of a whole module": (b"ctorch.nn.modules.linear\nLinear\n)\x81", "refused, it asks for torch.nn.modules.linear.Linear"),
    "a storage of quantised numbers": (a_tensor("0", 6, (6,), kind="QInt8Storage"), "refused, it asks for torch.QInt8Storage"),
    "a storage of complex numbers": (a_tensor("0", 3, (3,), kind="ComplexFloatStorage"), "refused, it asks for torch.ComplexFloatStorage"),
    "a tensor beyond its storage": (a_tensor("0", 6, (3, 3)), "w lies outside its storage"),
    "a storage by a path": (a_tensor("../../../../etc/passwd", 6, (6,)), "/etc/passwd"),
    "a number for a tensor": (number(3), "'w' is a int; wanted a state dict"),
    "a table of a billion objects": (b"Nr\xff\xff\xff\x7f", "refused, it asks for a table of"),
})  # fmt: skip
def _(files, context, value):
    value = context.program if value == "program" else value
    as_bin(files, context, {"w": value}, RAW)


@case("refused, it asks for os.system")
def a_command_in_the_older_format(files, context):
    as_bin(files, context, {"w": context.program}, RAW, write_sequence)


@case("refused, it asks for os.system")
def a_command_in_the_older_formats_first_pickle(files, context):
    del files[ST]
    files[BIN] = b"\x80\x02" + context.program + b"."


@case("pytorch_model-00002-of-00002.bin: refused, it asks for os.system")
def a_command_in_a_shard(files, context):
    in_shards(files, context, BIN)
    file = write_zip(os.path.join(context.scratch, "x"), {"w": context.program}, RAW)
    with open(file, "rb") as f:
        files["pytorch_model-00002-of-00002.bin"] = f.read()


@case("refused, it asks for posix.system")
def a_command_as_python_pickles_it(files, context):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {context.canary}",)

    del files[ST]
    files[BIN] = pickle.dumps(Attack(), 2)


@case(f"{BIN}: data.pkl is compressed; wanted weights that PyTorch saved")
def a_bomb(files, context):
    huge = {"0": bytes(50_000_000)}
    entries = {"w": a_tensor("0", 12_500_000, (12_500_000,))}
    as_bin(files, context, entries, huge, compression=zipfile.ZIP_DEFLATED)


@case(f"{BIN}: data/0 is compressed")
def a_bomb_for_a_storage(files, context):
    as_bin(files, context, GOOD, {})
    with zipfile.ZipFile(os.path.join(context.scratch, "made.bin"), "a") as archive:
        archive.writestr("archive/data/0", bytes(50_000_000), zipfile.ZIP_DEFLATED)
    with open(os.path.join(context.scratch, "made.bin"), "rb") as f:
        files[BIN] = f.read()


@case(f"{BIN}: not whole (a zip archive without its end); download it again")
def a_zip_cut_short(files, context):
    files.update(stand_in.as_bin(files, context.scratch))
    del files[ST]
    files[BIN] = files[BIN][:-2_000]


@case(f"{BIN}: not whole")
def the_older_format_cut_short(files, context):
    files.update(stand_in.as_bin(files, context.scratch, write_sequence))
    del files[ST]
    files[BIN] = files[BIN][:-2_000]


@case(f"{BIN}: not whole (Bad CRC-32")
def a_zip_with_a_flipped_bit(files, context):
    numbers = stand_in.tensors_of(files)[f"{QUERY}.weight"].tobytes()
    files.update(stand_in.as_bin(files, context.scratch))
    del files[ST]
    flipped = bytes([numbers[0] ^ 1]) + numbers[1:]
    files[BIN] = files[BIN].replace(numbers, flipped)


@case(f"{BIN}: holds 2 data.pkl")
def two_pickles_in_a_zip(files, context):
    as_bin(files, context, GOOD, RAW, **{"x/data.pkl": pickled(GOOD)})


@case(f"{BIN}: holds 0 data.pkl")
def a_zip_of_something_else(files, context):
    del files[ST]
    with zipfile.ZipFile(os.path.join(context.scratch, "x"), "w") as archive:
        archive.writestr("../../../tmp/x.py", "raise SystemExit")
    with open(os.path.join(context.scratch, "x"), "rb") as f:
        files[BIN] = f.read()


@cases({
    "pytorch's file is empty": (b"", f"{BIN}: empty"),
    "a page of html for pytorch's file": (b"<!doctype html>", f"{BIN}: not whole (neither a zip archive nor a pickle); download it again"),
    "a git-lfs pointer for pytorch's file": (POINTER, f"{BIN}: a Git-LFS pointer"),
})  # fmt: skip
def _(files, context, content):
    del files[ST]
    files[BIN] = content


@case(f"{BIN}: {QUERY}.bias holds numbers that are NaN")
def nan_in_pytorchs_file(files, context):
    change_tensors(files, put(f"{QUERY}.bias", spoilt(np.nan)))
    files.update(stand_in.as_bin(files, context.scratch))
    del files[ST]


# Shards and their index.


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@cases({
    "a shard above the folder": (f"../{FIRST}", f"is said to be in '../{FIRST}'; wanted the plain name"),
    "a shard by its whole path": ("/etc/passwd", "is said to be in '/etc/passwd'; wanted the plain name"),
    "a shard in a folder below": (f"x/{FIRST}", "wanted the plain name"),
    "a shard with a backslash": (f"..\\{FIRST}", "wanted the plain name"),
    "a shard with a null in its name": (f"{FIRST}\0.safetensors", "wanted the plain name"),
    "a shard that is a number": (1, "is said to be in 1; wanted the plain name of a .safetensors file"),
    "a shard of another form": (BIN, f"is said to be in '{BIN}'; wanted the plain name of a .safetensors"),
    "an index that names itself": (ST_INDEX, "wanted the plain name"),
    "a shard with a wildcard": ("*.safetensors", "wanted the plain name"),
    "a shard that is missing": ("model-00003-of-00003.safetensors", f"{ST_INDEX}: 1 of its 3 shards are missing, among them model-00003-of-00003.safetensors"),
    "a tensor in the other shard": (SECOND, f"{FIRST}: holds embeddings.LayerNorm.bias, for which {ST_INDEX} names {SECOND}"),
})  # fmt: skip
def _(files, context, shard):
    in_shards(files, context)
    index = json.loads(files[ST_INDEX])
    index["weight_map"]["embeddings.LayerNorm.bias"] = shard
    files[ST_INDEX] = json.dumps(index).encode()


@cases({
    "a weight map that is a list": (b'{"weight_map": [1]}', f"{ST_INDEX}: no weight_map"),
    "an empty weight map": (b'{"weight_map": {}}', f"{ST_INDEX}: no weight_map"),
    "an index without a weight map": (b'{"metadata": {}}', f"{ST_INDEX}: no weight_map"),
    "an index that is a list": (b"[]", f"{ST_INDEX}: a list; wanted an object"),
    "an index that is no json": (b'{"weight_map": ', f"{ST_INDEX}: not JSON"),
    "an index that is not utf-8": (b'{"weight_map": {"\xff": "x"}}', f"{ST_INDEX}: not JSON"),
    "an index with a tensor twice": (f'{{"weight_map": {{"a": "{FIRST}", "a": "{SECOND}"}}}}'.encode(), f"{ST_INDEX}: not JSON ('a' is there twice)"),
    "an empty index": (b"", f"{ST_INDEX}: empty"),
    "a git-lfs pointer for an index": (POINTER, f"{ST_INDEX}: a Git-LFS pointer"),
    "an index of a million brackets": (b"[" * 1_000_000, f"{ST_INDEX}: not JSON (nested too deep)"),
})  # fmt: skip
def _(files, context, content):
    in_shards(files, context)
    files[ST_INDEX] = content


@cases({
    "a shard that lacks a tensor": (lambda t: t.pop(sorted(t)[0]), f"{SECOND}: lacks embeddings.LayerNorm.weight, which {ST_INDEX} says is there"),
    "a tensor in two shards": (lambda t: t.update({"embeddings.LayerNorm.bias": np.ones(16, "f4")}), f"{SECOND}: holds embeddings.LayerNorm.bias, which is in {FIRST} too"),
    "a tensor that the index leaves out": (lambda t: t.update({"cls.x": np.ones(16, "f4")}), f"{SECOND}: holds cls.x, for which {ST_INDEX} names no shard"),
    "nan in a shard": (put("embeddings.LayerNorm.weight", spoilt(np.nan)), f"{SECOND}: embeddings.LayerNorm.weight holds numbers that are NaN"),
})  # fmt: skip
def _(files, context, change):
    in_shards(files, context)
    tensors = safetensors.numpy.load(files[SECOND])
    change(tensors)
    files[SECOND] = safetensors.numpy.save(tensors)


@cases({
    "a shard cut short": (lambda raw: raw[:-9], f"{SECOND}: not a whole safetensors file"),
    "an empty shard": (lambda raw: b"", f"{SECOND}: empty"),
    "a git-lfs pointer for a shard": (lambda raw: POINTER, f"{SECOND}: a Git-LFS pointer"),
})  # fmt: skip
def _(files, context, change):
    in_shards(files, context)
    files[SECOND] = change(files[SECOND])


@case(f"{SECOND}: a folder; wanted a file")
def a_folder_for_a_shard(files, context):
    in_shards(files, context)
    files[f"{SECOND}/x"] = files.pop(SECOND)


@case(f"{SECOND}: a link that leads out of its folder")
def a_shard_that_links_out_of_the_folder(files, context):
    in_shards(files, context)
    with open(os.path.join(context.scratch, "x"), "wb") as f:
        f.write(files.pop(SECOND))
    os.symlink(os.path.join(context.scratch, "x"), os.path.join(context.folder, SECOND))


# A config that lies.


@cases({
    "layers below zero": ({"num_hidden_layers": -1}, "num_hidden_layers is -1; wanted a whole number, 1 to 1000"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    "a billion layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; wanted"),
    "layers in words": ({"num_hidden_layers": "two"}, "num_hidden_layers"),
    "layers by halves": ({"num_hidden_layers": 2.5}, "num_hidden_layers"),
    "a true number of layers": ({"num_hidden_layers": True}, "num_hidden_layers"),
    "more layers than the weights": ({"num_hidden_layers": 3}, f"{ST}: lacks 16 of 53 tensors"),
    "fewer layers than the weights": ({"num_hidden_layers": 1}, f"{ST}: holds 16 tensors that the model has no place for"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    "heads that do not divide": ({"num_attention_heads": 3}, "hidden_size is 16 and num_attention_heads 3"),
    "a width of nothing": ({"hidden_size": None}, "hidden_size"),
    "a width in a list": ({"hidden_size": [16]}, "hidden_size"),
    "a width of another model": ({"hidden_size": 32}, f"{ST}: tensor "),
    "a width beyond memory": ({"hidden_size": 10**30}, "hidden_size is 1000"),
    "a hidden width below zero": ({"intermediate_size": -24}, "intermediate_size is -24"),
    "a vocabulary below zero": ({"vocab_size": -31}, "vocab_size is -31"),
    "no positions": ({"max_position_embeddings": 0}, "max_position_embeddings is 0"),
    "no segments": ({"type_vocab_size": 0}, "type_vocab_size is 0; wanted a whole number, 1 to"),
    "segments below zero": ({"type_vocab_size": -2}, "type_vocab_size is -2"),
    "an epsilon that is no number": ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
    "an epsilon below zero": ({"layer_norm_eps": -1e-12}, "layer_norm_eps is -1e-12"),
    "a model type that is null": ({"model_type": None}, "model_type is missing"),
    "a model type in a list": ({"model_type": ["bert"]}, "model_type is ['bert']"),
    "a model type that nobody knows": ({"model_type": "nonesuch"}, "model_type is 'nonesuch'; wanted bert"),
    "a model type that nobody knows, and odd sizes": ({"model_type": "nonesuch", "hidden_size": [16], "num_attention_heads": "2"}, "model_type is 'nonesuch'; wanted bert"),
    "a model type of speech": ({"model_type": "wav2vec2"}, "model_type is 'wav2vec2'; wanted bert"),
    "a model type of a decoder": ({"model_type": "gpt2"}, "model_type is 'gpt2'; wanted bert"),
    "weights said to be quantised": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config: the weights are quantised"),
    "another activation": ({"hidden_act": "swishy"}, "hidden_act is 'swishy'"),
    "an activation that is a number": ({"hidden_act": 7}, "hidden_act"),
    "classes in a list": ({"id2label": [1]}, "no config of a bert"),
})  # fmt: skip
def _(files, context, fields):
    change_json(files, "config.json", **fields)


@case("config.json: model_type is missing")
def no_model_type(files, context):
    config = json.loads(files["config.json"])
    del config["model_type"]
    files["config.json"] = json.dumps(config).encode()


@cases({
    "an empty config": (b"", "config.json: empty"),
    "a config that is a list": (b"[]", "config.json: a list; wanted an object"),
    "a config that is null": (b"null", "config.json: a NoneType; wanted an object"),
    "a config that is no json": (b"{model_type: bert}", "config.json: not JSON"),
    "a config that is not utf-8": (b'{"model_type": "b\xe9rt"}', "config.json: not JSON"),
    "a config with a field twice": (b'{"model_type": "bert", "model_type": "bert"}', "config.json: not JSON ('model_type' is there twice)"),
    "a config of a million brackets": (b'{"a":' + b"[" * 1_000_000, "config.json: not JSON (nested too deep)"),
    "a git-lfs pointer for a config": (POINTER, "config.json: a Git-LFS pointer"),
})  # fmt: skip
def _(files, context, content):
    files["config.json"] = content


@case("no config.json; wanted a folder")
def no_config(files, context):
    del files["config.json"]


@case("config.json: a folder; wanted a file")
def a_folder_for_a_config(files, context):
    files["config.json/x"] = files.pop("config.json")


@case("model_type is 'mine'; wanted bert")
def a_config_that_brings_its_own_code(files, context):
    code = f"open({context.canary!r}, 'w')\nclass Config: pass\n"
    files["mine.py"] = code.encode()
    change_json(files, "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"})


@cases({
    "strides without end": ({"conv_stride": [1_000_000] * 7}, "conv_kernel and conv_stride give a frame for"),
    "kernels of nothing": ({"conv_kernel": [0] * 7}, "conv_kernel is 0"),
    "kernels in words": ({"conv_kernel": ["a"] * 7}, "conv_kernel"),
    "no convolutions": ({"conv_dim": [], "conv_kernel": [], "conv_stride": []}, "conv_"),
    "convolutions of several lengths": ({"conv_stride": [5, 2]}, "conv_"),
    "groups that do not divide": ({"num_conv_pos_embedding_groups": 5}, "hidden_size is 16 and num_conv_pos_embedding_groups 5"),
    "a position kernel below zero": ({"num_conv_pos_embeddings": -16}, "num_conv_pos_embeddings is -16"),
    "a model type of text": ({"model_type": "bert"}, "model_type is 'bert'; wanted data2vec-audio, hubert, wav2vec2, wavlm, whisper"),
}, kind="wav2vec2")  # fmt: skip
def _(files, context, fields):
    change_json(files, "config.json", **fields)


@cases({
    "sound of another rate": (b'{"sampling_rate": 8000}', "made for sound of 8000 Hz"),
    "a rate in words": (b'{"sampling_rate": "fast"}', "made for sound of fast Hz"),
    "a normalisation in words": (b'{"do_normalize": "maybe"}', "do_normalize is 'maybe', wanted true or false"),
    "a preprocessor that is no json": (b"{", "preprocessor_config.json: not JSON"),
    "a preprocessor that is a list": (b"[]", "preprocessor_config.json: a list; wanted an object"),
    "a git-lfs pointer for a preprocessor": (POINTER, "preprocessor_config.json: a Git-LFS pointer"),
}, kind="wav2vec2")  # fmt: skip
def _(files, context, content):
    files["preprocessor_config.json"] = content


# A tokenizer that is another model's, or nobody's.


@cases({
    "a tokenizer with too many tokens": ({"vocab.txt": b"\n".join(b"w%d" % i for i in range(40))}, "tokens and the model 31; wanted the tokenizer that belongs to the model"),
    "a git-lfs pointer for a vocabulary": ({"vocab.txt": POINTER}, "vocab.txt: a Git-LFS pointer"),
    "an empty vocabulary": ({"vocab.txt": b""}, "vocab.txt: empty"),
    "a vocabulary that is not utf-8": ({"vocab.txt": b"[PAD]\n\xff\xfe\n"}, "tokenizer not readable"),
    "a tokenizer that is no json": ({"tokenizer.json": b"{"}, "tokenizer.json: not JSON"),
    "a tokenizer that is a list": ({"tokenizer.json": b"[]"}, "tokenizer.json: a list; wanted an object"),
    "a tokenizer of no model": ({"tokenizer.json": b'{"version": "1.0", "model": {"type": "None"}}'}, "tokenizer not readable"),
    "a tokenizer config that is no json": ({"tokenizer_config.json": b"{"}, "tokenizer_config.json: not JSON"),
    "a tokenizer config that is a list": ({"tokenizer_config.json": b"[1]"}, "tokenizer_config.json: a list; wanted an object"),
    "a tokenizer class that nobody knows": ({"tokenizer_config.json": b'{"tokenizer_class": "Nonesuch"}'}, "tokenizer not readable"),
})  # fmt: skip
def _(files, context, changes):
    files.update(changes)


@case("no tokenizer; wanted tokenizer.json or vocab.txt")
def no_tokenizer(files, context):
    del files["vocab.txt"]


@case("the tokenizer has no pad_token")
def no_token_for_padding(files, context):
    change_json(files, "tokenizer_config.json", pad_token=None)


@case("tokenizer not readable")
def a_tokenizer_that_brings_its_own_code(files, context):
    files["mine.py"] = f"open({context.canary!r}, 'w')\nclass Mine: pass\n".encode()
    change_json(
        files,
        "tokenizer_config.json",
        tokenizer_class="Mine",
        auto_map={"AutoTokenizer": ["mine.Mine", None]},
    )


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory):
    return releases.iemocap(str(tmp_path_factory.mktemp("iemocap")))


def run(iemocap, tmp_path, kind, files):
    """The command on a snapshot of `files`; returns its exit code."""
    for name, content in files.items():
        releases.write(str(tmp_path / "snapshot" / name), content)
    flag, letter = {"bert": ("--text-model", "t"), "wav2vec2": ("--speech-model", "s")}[kind]
    return command.main([
        "iemocap", "--root", iemocap, "--out", str(tmp_path / "out" / "pack"), "--quiet",
        "--modalities", letter, "--max-tokens", "12", "--max-seconds", "1",
        flag, str(tmp_path / "snapshot"), "--max-bad", "1",
    ])  # fmt: skip


@pytest.fixture
def context(tmp_path):
    for name in ("snapshot", "scratch", "out"):
        os.mkdir(tmp_path / name)
    folder, scratch = str(tmp_path / "snapshot"), str(tmp_path / "scratch")
    return Context(folder, scratch, str(tmp_path / "canary"))


@pytest.mark.parametrize("name", CASES)
def test_a_malformed_snapshot_is_one_line_and_leaves_nothing(
    iemocap, tmp_path, context, capfd, name
):
    kind, spoil, match = CASES[name]
    files = stand_in.files_of(kind)
    spoil(files, context)
    modules = set(sys.modules)
    assert run(iemocap, tmp_path, kind, files) == 2
    said = capfd.readouterr()
    lines = said.err.splitlines()
    assert said.out == "" and all(x.startswith("warning: ") for x in lines[:-1]), said.err
    assert lines[-1].startswith(f"error: {context.folder}") and match in lines[-1], lines[-1]
    assert len(lines[-1]) < 700
    assert not os.path.exists(context.canary) and os.listdir(tmp_path / "out") == []
    assert sorted(os.listdir(tmp_path)) == ["out", "scratch", "snapshot"]
    assert "mine" not in {m.rpartition(".")[2] for m in set(sys.modules) - modules}


def test_there_are_more_than_forty_of_them():
    assert len(CASES) > 40


@pytest.mark.parametrize("kind", ["bert", "wav2vec2"])
@pytest.mark.parametrize("form", ["safetensors", "bin", "older bin", "shards", "bin shards"])
def test_what_the_cases_spoil_is_read(iemocap, tmp_path, context, kind, form):
    files = stand_in.files_of(kind)
    made = {
        "safetensors": lambda: files,
        "bin": lambda: stand_in.as_bin(files, context.scratch),
        "older bin": lambda: stand_in.as_bin(files, context.scratch, write_sequence),
        "shards": lambda: stand_in.in_shards(files, context.scratch, ST),
        "bin shards": lambda: stand_in.in_shards(files, context.scratch, BIN),
    }[form]()
    assert run(iemocap, tmp_path, kind, made) == 0
