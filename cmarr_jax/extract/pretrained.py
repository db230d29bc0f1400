"""A published model: a folder, or a name on the Hugging Face hub, with config and weights."""

import contextlib
import hashlib
import importlib
import importlib.util
import os
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from cmarr_jax.cli.bar import Bars
from cmarr_jax.errors import UserError
from cmarr_jax.extract import checkpoint, sizes, snapshot

# A tokenizer is in any one of these, alone or with the others.
_SENTENCEPIECE = ("spm.model", "sentencepiece.bpe.model")
_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", *_SENTENCEPIECE)
_TOKENIZER_FILES = (
    *_TOKENIZER,
    "merges.txt",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_FILES = ("config.json", *_TOKENIZER_FILES)
# What a model wants its sound to be; either of the first two, or the config itself, may say it.
_SOUND = ("preprocessor_config.json", "processor_config.json", "config.json")
# What a vision model wants its pictures to be.
_PICTURES = ("preprocessor_config.json", "processor_config.json")


def folder(model: str) -> str:
    """The folder of `model`, downloaded if it is a name and not yet on this machine.

    Args:
      model: a folder, or a name on the Hugging Face hub, NAME or NAME@REVISION.

    Raises:
      UserError: there is no such folder, the hub does not give it, or a file of it is missing,
        empty, a Git-LFS pointer or a link to elsewhere.
    """
    return _checked(model if os.path.isdir(model) else _fetch(model).folder)


def pinned(model: str, progress: Bars) -> str:
    """`model` by a name that gives the same files later: a path as it is, NAME as NAME@COMMIT.

    Args:
      model: as of `folder`.
      progress: says which revision that is.

    Raises:
      UserError: as `folder` does.
    """
    if os.path.exists(model):
        return model
    found = _fetch(model)
    say = progress.say if found.as_asked else progress.warn
    say(f"{model}: {found.said}")
    return found.name


def weights(path: str) -> str:
    """The file of the folder `path` that its weights are read from, see `checkpoint`."""
    return os.path.join(path, checkpoint.find(os.listdir(path)) or checkpoint.FORMS[0])


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
        content = snapshot.read_json(file)
        for fields in (content, content.get("feature_extractor")):
            if isinstance(fields, dict):
                stated = {k: fields[k] for k in ("sampling_rate", "do_normalize") if k in fields}
                said = stated | said
    return said


def config(path: str) -> dict[str, Any]:
    """`config.json` of the folder `path`, with the defaults of its kind of model filled in.

    Of a kind that transformers does not know, what the file holds; of others every size is one, see
    `sizes`.

    Raises:
      UserError: it is not JSON, names no kind of model, or describes none that can be.
    """
    file = os.path.join(path, "config.json")
    said = snapshot.read_json(file)
    if not isinstance(kind := said.get("model_type"), str) or not kind:
        found = "is missing" if kind is None else f"is {kind!r:.60}"
        raise UserError(f"{file}: model_type {found}; wanted the kind of model, such as bert")
    if said.get("quantization_config"):
        raise UserError(
            f"{file}: quantization_config: the weights are quantised; take the model as it was "
            "trained"
        )
    known = _transformers().CONFIG_MAPPING
    if kind not in known:
        return said
    try:
        filled = known[kind].from_dict(said).to_dict()
    except Exception as e:  # transformers checks types, each in its own way
        reason = str(e).splitlines()[-1].strip() if str(e) else type(e).__name__
        raise UserError(f"{file}: no config of a {kind} ({reason:.200})") from None
    sizes.check(file, filled)
    return filled


def tokenizer(path: str, vocab_size: int) -> Any:
    """The tokenizer of the folder `path`.

    Raises:
      UserError: it has none, or one that lacks a token for padding or has more than the model's
        `vocab_size` tokens.
    """
    # With none of them, transformers silently makes a tokenizer with five tokens.
    names = {*os.listdir(path)}
    if not names & {*_TOKENIZER}:
        raise UserError(f"{path}: no tokenizer; wanted {' or '.join(_TOKENIZER)}")
    for name in sorted(names & {*_TOKENIZER_FILES}):
        if name.endswith(".json"):
            snapshot.read_json(os.path.join(path, name))  # transformers would not name the file
    # What is written for the tokenizers library is read in place of SentencePiece's file.
    if "tokenizer.json" not in names:
        for name in sorted(names & {*_SENTENCEPIECE}):
            _check_sentencepiece(os.path.join(path, name))
    try:
        found = _transformers().AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except Exception as e:  # the tokenizers library raises bare Exception on a damaged file
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise UserError(f"{path}: tokenizer not readable ({reason})") from None
    if len(found) > vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {len(found)} tokens and the model {vocab_size}; "
            "wanted the tokenizer that belongs to the model"
        )
    if found.pad_token_id is None:
        raise UserError(f"{path}: the tokenizer has no pad_token; wanted an encoder's tokenizer")
    return found


def image_processor(path: str) -> Any:
    """What scales pictures for the vision model in the folder `path`, on top of Pillow.

    Raises:
      UserError: the folder does not say how, or Pillow is not installed.
    """
    if not {*_PICTURES} & {*os.listdir(path)}:
        raise UserError(
            f"{path}: no {_PICTURES[0]}; wanted the vision model's own beside its config.json: it "
            "says how pictures are scaled"
        )
    if importlib.util.find_spec("PIL") is None:
        raise UserError("a vision model needs pillow; pip install -r requirements-extract.txt")
    try:
        return _transformers().AutoImageProcessor.from_pretrained(
            path, local_files_only=True, backend="pil"
        )
    except Exception as e:  # transformers raises what comes
        reason = (str(e).splitlines() or [type(e).__name__])[0][:200]
        raise UserError(f"{path}: {_PICTURES[0]} not readable ({reason})") from None


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
    here = [os.path.join(path, name) for name in sorted({*_FILES} & {*os.listdir(path)})]
    for file in [*here, *checkpoint.files(weights(path))]:
        with open(file, "rb") as f:
            digests[os.path.basename(file)] = hashlib.file_digest(f, "sha256").hexdigest()
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


def _fetch(model: str) -> Any:
    if os.path.exists(model):
        raise UserError(f"{model}: a file; wanted the folder of a Hugging Face model")
    try:
        from cmarr_jax.extract import hub
    except ModuleNotFoundError:
        raise UserError(
            f"{model}: no such folder, and a model of the hub needs huggingface_hub; "
            "pip install -r requirements-extract.txt"
        ) from None
    return hub.fetch(model, (*_FILES, *_SOUND))


def _checked(path: str) -> str:
    names = {*os.listdir(path)}
    if "config.json" not in names:
        raise UserError(f"{path}: no config.json; wanted a folder with a Hugging Face model")
    for name in sorted(names & {*_FILES, *_SOUND}):
        snapshot.path(path, name)
    if checkpoint.find(names) is None:
        others = sorted(n for n in names if n.endswith(checkpoint.OTHERS))[:3]
        raise UserError(
            f"{path}: no weights that are read"
            + (f" (it has {', '.join(others)})" if others else "")
            + f"; wanted one of {', '.join(checkpoint.FORMS)}"
        )
    checkpoint.files(weights(path))
    return path


def _transformers() -> ModuleType:
    # Else it warns at import that PyTorch is absent, which is intended here.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return importlib.import_module("transformers")
