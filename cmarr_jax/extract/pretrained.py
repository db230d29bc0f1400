"""A published model: a folder, or a name on the Hugging Face hub, with config and weights."""

import contextlib
import hashlib
import importlib
import json
import os
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from cmarr_jax.errors import UserError

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read
# A tokenizer is in any one of these, alone or with the others.
_SENTENCEPIECE = ("spm.model", "sentencepiece.bpe.model")
_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", *_SENTENCEPIECE)
_FILES = (
    "config.json",
    *_TOKENIZER,
    "merges.txt",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
# What a model wants its sound to be; either of the first two, or the config itself, may say it.
_SOUND = ("preprocessor_config.json", "processor_config.json", "config.json")
_CONVERT = (
    "python -c \"from transformers import AutoModel; AutoModel.from_pretrained('{model}')"
    ".save_pretrained('{folder}')\""
)


def folder(model: str) -> str:
    """The folder of `model`, downloaded if it is a name and not yet on this machine.

    Raises:
      UserError: there is no such folder, the hub does not give it, or it lacks
        `config.json` or weights.
    """
    found = model if os.path.isdir(model) else _download(model)
    files = os.listdir(found)
    if "config.json" not in files:
        raise UserError(f"{found}: no config.json; wanted a folder with a Hugging Face model")
    if not {*_WEIGHTS} & {*files}:
        target = model if found == model else "FOLDER"
        raise UserError(
            f"{found}: no {' or '.join(_WEIGHTS)}, and sharded weights are not read; convert them "
            f"once where torch is installed: {_CONVERT.format(model=model, folder=target)}"
        )
    return found


def weights(path: str) -> str:
    """The file of the folder `path` whose weights are read."""
    return next(file for name in _WEIGHTS if os.path.exists(file := os.path.join(path, name)))


def sound(path: str) -> dict[str, Any]:
    """What the model in the folder `path` says of its sound: `sampling_rate`, `do_normalize`.

    Only what its files state is there.

    Raises:
      UserError: a file is not JSON.
    """
    said: dict[str, Any] = {}
    for name in _SOUND:
        file = os.path.join(path, name)
        if not os.path.exists(file):
            continue
        try:
            with open(file, encoding="utf-8") as f:
                content = json.load(f)
        except (OSError, ValueError) as e:
            raise UserError(f"{file}: not JSON ({e})") from None
        for fields in (content, content.get("feature_extractor")):
            if isinstance(fields, dict):
                stated = {k: fields[k] for k in ("sampling_rate", "do_normalize") if k in fields}
                said = stated | said
    return said


def config(path: str) -> dict[str, Any]:
    """`config.json` of the folder `path`, with the defaults of its kind of model filled in.

    Raises:
      UserError: it is not JSON or names no kind of model that transformers knows.
    """
    try:
        return _transformers().AutoConfig.from_pretrained(path, local_files_only=True).to_dict()
    except (OSError, ValueError) as e:
        reason = str(e).splitlines()[0]
        raise UserError(f"{os.path.join(path, 'config.json')}: {reason}") from None


def tokenizer(path: str, vocab_size: int) -> Any:
    """The tokenizer of the folder `path`.

    Raises:
      UserError: it has none, or one with more than the model's `vocab_size` tokens.
    """
    # With none of them, transformers silently makes a tokenizer with five tokens.
    if not set(_TOKENIZER) & (files := {*os.listdir(path)}):
        raise UserError(f"{path}: no tokenizer; wanted {' or '.join(_TOKENIZER)} in this folder")
    # What is written for the tokenizers library is read in place of SentencePiece's file.
    if "tokenizer.json" not in files:
        for name in files & {*_SENTENCEPIECE}:
            _check_sentencepiece(os.path.join(path, name))
    try:
        found = _transformers().AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as e:  # the tokenizers library raises bare Exception on a damaged file
        raise UserError(f"{path}: tokenizer not readable ({str(e).splitlines()[0]})") from None
    if len(found) > vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {len(found)} tokens and the model {vocab_size}; "
            "wanted the tokenizer that belongs to the model"
        )
    return found


def _check_sentencepiece(file: str) -> None:
    """Says what is wrong with a SentencePiece model; transformers would ask for tiktoken.

    Raises:
      UserError: the package is not there to read it, or it is damaged.
    """
    try:
        import sentencepiece
    except ModuleNotFoundError:
        raise UserError(
            f"{file}: needs sentencepiece; pip install -r requirements-extract.txt"
        ) from None
    try:
        sentencepiece.SentencePieceProcessor(model_file=file)
    except (OSError, RuntimeError):
        raise UserError(f"{file}: not a whole SentencePiece model; download it again") from None


def hashes(path: str) -> dict[str, str]:
    """SHA-256 of every file in the folder `path` that decides what the model computes."""
    digests = {}
    used = {*_FILES, os.path.basename(weights(path))}
    for name in sorted(used & {*os.listdir(path)}):
        with open(os.path.join(path, name), "rb") as f:
            digests[name] = hashlib.file_digest(f, "sha256").hexdigest()
    return digests


def compute_dtype(name: str) -> jnp.dtype:
    """`name` as a dtype.

    Raises:
      UserError: `name` is neither "float32" nor "bfloat16".
    """
    if name not in ("float32", "bfloat16"):
        raise UserError(f"--dtype={name}: wanted float32 or bfloat16")
    return jnp.dtype(name)


def precision(dtype: jnp.dtype) -> contextlib.AbstractContextManager:
    """A context in which float32 products keep all their bits, on accelerators too."""
    return jax.default_matmul_precision("float32" if dtype == jnp.float32 else "default")


def _download(model: str) -> str:
    import huggingface_hub

    small = [*_FILES, *_SOUND]
    try:
        for name in _WEIGHTS:  # one after the other: most models have both, each of them large
            found = huggingface_hub.snapshot_download(model, allow_patterns=[*small, name])
            if os.path.exists(os.path.join(found, name)):
                break
        return found
    except Exception as e:  # the hub's client raises its transport's exceptions as they come
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UserError(
            f"{model}: no such folder, and not to be had from the Hugging Face hub ({reason}); "
            f"wanted a folder with config.json and {' or '.join(_WEIGHTS)}"
        ) from None


def _transformers() -> ModuleType:
    # Else it warns at import that PyTorch is absent, which is intended here.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return importlib.import_module("transformers")
