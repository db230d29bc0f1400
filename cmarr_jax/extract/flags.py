"""The flags of `python -m cmarr_jax.extract` and their help."""

import argparse
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from cmarr_jax.cli.arguments import FORM, make_parser
from cmarr_jax.extract.layers import FORMS

# A ViT fitted to facial expressions (FER-2013): 2022, Apache 2.0.
VIDEO_MODEL = "trpakov/vit-face-expression"
_TEXT = "BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DeBERTa-v2 or -v3, DistilBERT or MPNet"


def parser(description: str, readers: Mapping[str, ModuleType]) -> argparse.ArgumentParser:
    """The command's parser.

    Args:
      description: of the command.
      readers: corpus -> the module that reads it; its docstring describes the corpus' folders.
    """
    root = make_parser("python -m cmarr_jax.extract", description)
    corpora = root.add_subparsers(
        dest="corpus", required=True, metavar="{" + ",".join(readers) + "}"
    )
    for name, module in readers.items():
        corpus = corpora.add_parser(
            name,
            help=module.__doc__.splitlines()[0],
            description=module.__doc__,
            **FORM,
        )
        corpus.error = root.error
        _add_flags(corpus, module)
    return root


def options(args: argparse.Namespace, reader: ModuleType) -> dict[str, Any]:
    """The keywords of a reader's `scan`, as the flags of the same names set them."""
    return {name: getattr(args, name) for name in _keywords(reader)}


def _keywords(reader: ModuleType) -> list[str]:
    return [name for name in inspect.signature(reader.scan).parameters if name != "root"]


def _add_flags(parser: argparse.ArgumentParser, reader: ModuleType) -> None:
    add = parser.add_argument
    what = getattr(reader, "ROOT", "DIR")
    add("--root", required=True, metavar=what, help="the release" if what == "DIR" else "the table")
    add(
        "--out",
        metavar="PACK",
        help="folder of the pack to make; must not exist yet (default: data/NAME, the corpus')",
    )
    add("--list", action="store_true", help="count turns and files by class and stop")
    add(
        "--modalities",
        metavar="t,s,v",
        help="text, speech, video (default: t,s; s where all say the same sentences; and v if a "
        "video option is given)",
    )
    if hasattr(reader, "add_flags"):
        reader.add_flags(parser)
    if "strip_tags" in _keywords(reader):
        help_ = "drop [LAUGHTER], -- and ... from transcripts"
        add("--strip-tags", action="store_true", help=help_)
    add("--keep-unlabelled", action="store_true", help="keep turns of other or no label")
    models = parser.add_argument_group(
        "encoders",
        "a folder with a Hugging Face snapshot (config.json, weights), or a hub name: NAME for its "
        "main branch, or NAME@REVISION, a branch, a tag, a commit or refs/pr/N",
    )
    add = models.add_argument
    add("--revision", metavar="REV", help="of every hub name that does not say one")
    add("--text-model", default="bert-base-uncased", metavar="DIR|NAME", help=_TEXT)
    add(
        "--keep-special-tokens",
        action="store_true",
        help="keep the vectors of the marks at a text's ends, [CLS] and [SEP] or <s> and </s>",
    )
    add(
        "--max-tokens",
        type=_positive(int),
        metavar="N",
        help="cut longer texts (default: 512, or what the model has)",
    )
    add(
        "--speech-model",
        default="facebook/wav2vec2-base",
        metavar="DIR|NAME",
        help="wav2vec 2.0, HuBERT, WavLM, data2vec or Whisper",
    )
    add("--max-seconds", type=_positive(float), default=35.0, metavar="S", help="cut longer turns")
    add(
        "--video-model",
        metavar="DIR|NAME|FILE",
        help="ViT, CLIP or DINOv2 for faces, or a file of Denseface's weights (default, with v "
        f"among the modalities: {VIDEO_MODEL})",
    )
    add("--video-features", metavar="DIR", help="ready features: a folder of ID.npy or an .h5 file")
    add("--faces", metavar="DIR", help="pre-cropped faces, a folder of pictures or ID.npy a turn")
    add(
        "--video-fps",
        type=_positive(float),
        default=10.0,
        metavar="N",
        help="frames a second to look at (default: 10)",
    )
    add(
        "--face-margin",
        type=float,
        metavar="SHARE",
        help="the face is cut as a square, this part larger than the longer side of what the "
        "detector found (default: 0.2; for Denseface, exactly what it found)",
    )
    add(
        "--face-size",
        type=_positive(int),
        metavar="PIXELS",
        help="side of the square that the vision model sees (default: the model's own)",
    )
    add(
        "--layers",
        action="append",
        default=[],
        metavar="[MODALITY=]WHICH",
        help=f"hidden states to keep, of every encoder or of one, as in --layers=speech=-4: "
        f"(default: last): {FORMS}",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the computation (default: float32 on CPU, bfloat16 elsewhere)",
    )
    add(
        "--store-dtype",
        choices=("float16", "float32"),
        default="float16",
        help="of the features in the pack (default: float16)",
    )
    running = parser.add_argument_group("running")
    add = running.add_argument
    add(
        "--max-bad",
        type=_share,
        default=0.05,
        metavar="SHARE",
        help="exit code 3 if a larger share of the turns lacks a modality (default: 0.05)",
    )
    add(
        "--cache",
        metavar="DIR",
        help="keep finished features there for other packs of the same turns (default: beside "
        "PACK, removed when it is done)",
    )
    add("--quiet", action="store_true", help="show warnings and errors alone")


def _positive(kind: type) -> type:
    def parse(text: str):
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text}: wanted more than 0")
        return value

    parse.__name__ = kind.__name__
    return parse


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted a share from 0 to 1")
    return value


_share.__name__ = "share"
