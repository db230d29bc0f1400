"""A published model: a folder, or a name on the Hugging Face hub, with config and weights."""

import contextlib
import hashlib
import importlib
import os
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from cmarr_jax.errors import UserError

_WEIGHTS = "model.safetensors"
_TOKENIZER = ("tokenizer.json", "vocab.txt")
_FILES = ("config.json", _WEIGHTS, *_TOKENIZER, "tokenizer_config.json", "special_tokens_map.json")
_CONVERT = (
    "python -c \"from transformers import AutoModel; AutoModel.from_pretrained('{model}')"
    ".save_pretrained('{folder}')\""
)


def folder(model: str) -> str:
    """The folder of `model`, downloaded if it is a name and not yet on this machine.

    Raises:
      UserError: there is no such folder, the hub does not give it, or it lacks
        `config.json` or `model.safetensors`.
    """
    found = model if os.path.isdir(model) else _download(model)
    files = os.listdir(found)
    if "config.json" not in files:
        raise UserError(f"{found}: no config.json; wanted a folder with a Hugging Face model")
    if _WEIGHTS not in files:
        target = model if found == model else "FOLDER"
        raise UserError(
            f"{found}: no {_WEIGHTS}, and pickled or sharded weights are not read; convert them "
            f"once where torch is installed: {_CONVERT.format(model=model, folder=target)}"
        )
    return found


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
    # With neither file, transformers silently makes a tokenizer with five tokens.
    if not set(_TOKENIZER) & set(os.listdir(path)):
        raise UserError(f"{path}: no tokenizer; wanted {' or '.join(_TOKENIZER)} in this folder")
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


def hashes(path: str) -> dict[str, str]:
    """SHA-256 of every file in the folder `path` that decides what the model computes."""
    digests = {}
    for name in sorted({*_FILES} & {*os.listdir(path)}):
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

    try:
        return huggingface_hub.snapshot_download(model, allow_patterns=list(_FILES))
    except Exception as e:  # the hub's client may raise any exception of its HTTP library
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UserError(
            f"{model}: no such folder, and not to be had from the Hugging Face hub ({reason}); "
            f"wanted a folder with config.json and {_WEIGHTS}"
        ) from None


def _transformers() -> ModuleType:
    # Else it warns at import that PyTorch is absent, which is intended here.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return importlib.import_module("transformers")
