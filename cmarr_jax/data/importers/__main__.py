"""Makes a feature pack of features that you already have, in the format of another toolkit.

    python -m cmarr_jax.data.importers FORMAT ... --out PACK

Formats, each explained by `python -m cmarr_jax.data.importers FORMAT --help`:

    mmin      MMIN, IF-MMIN, CIF-MMIN, NMER: HDF5 features and .npy labels by fold
                  mmin --features IEMOCAP/features --target IEMOCAP/target --out PACK
    mmsa      MMSA's pickles of CMU-MOSI, CMU-MOSEI, CH-SIMS
                  mmsa --file MOSI/aligned_50.pkl --polarity has0 --out PACK
    gcnet     GCNet: a label pickle and folders of .npy files
                  gcnet --labels IEMOCAP_features_raw_4way.pkl --text features/deberta \\
                        --speech features/wav2vec --video features/manet --out PACK
    merbench  MERBench: a label .npz and folders of .npy files
                  merbench --labels label_4way.npz --speech features/hubert-FRA --out PACK
    csv       your own: a CSV of utterances, and features as .npz, .npy, .h5 or a folder
                  csv --utterances utterances.csv --text text.npz --speech speech/ --out PACK

No pickle is run: only NumPy arrays and plain containers are read from one, and anything else in
it is refused by name. The pack appears whole or not at all. Then

    python -m cmarr_jax.data describe PACK
    python train.py --config configs/iemocap.py --config.data.pack=PACK --workdir=DIR
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from cmarr_jax.cli import boundary
from cmarr_jax.cli.arguments import FORM, make_parser
from cmarr_jax.data import describe
from cmarr_jax.data.importers import assemble, gcnet, merbench, mmin, mmsa, table
from cmarr_jax.data.importers.labels import POLARITIES
from cmarr_jax.errors import UserError

_MODALITIES = ("text", "speech", "video")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return boundary.run(lambda: _run(_parser().parse_args(argv)), "nothing was written")


def _run(arguments: argparse.Namespace) -> int:
    pack = assemble.write(
        arguments.read(arguments),
        arguments.out,
        name=arguments.name or os.path.basename(os.path.abspath(arguments.out)),
        id_pattern=arguments.id_pattern,
        allow_missing=arguments.allow_missing,
        keep_zero_rows=arguments.keep_zero_rows,
    )
    print(describe.describe(pack))
    return 0


def _read_mmin(a: argparse.Namespace) -> assemble.Archive:
    return mmin.read(
        a.features,
        a.target,
        cv=a.cv,
        names={m: getattr(a, m) for m in _MODALITIES},
        classes=_names(a.classes),
        polarity=a.polarity,
    )


def _read_mmsa(a: argparse.Namespace) -> assemble.Archive:
    return mmsa.read(a.file, polarity=a.polarity, label_key=a.label_key, classes=_names(a.classes))


def _read_gcnet(a: argparse.Namespace) -> assemble.Archive:
    return gcnet.read(a.labels, _features(a), classes=_names(a.classes), polarity=a.polarity)


def _read_merbench(a: argparse.Namespace) -> assemble.Archive:
    return merbench.read(a.labels, _features(a), classes=_names(a.classes), polarity=a.polarity)


def _read_csv(a: argparse.Namespace) -> assemble.Archive:
    return table.read(a.utterances, _features(a), classes=_names(a.classes), polarity=a.polarity)


def _features(a: argparse.Namespace) -> dict[str, str]:
    features = {m: path for m in _MODALITIES if (path := getattr(a, m))}
    if not features:
        raise UserError("no features: give one or more of --text, --speech and --video")
    return features


def _names(joined: str) -> tuple[str, ...]:
    return tuple(n.strip() for n in joined.split(",") if n.strip())


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("python -m cmarr_jax.data.importers", __doc__, "; see --help")
    formats = parser.add_subparsers(metavar="FORMAT", required=True)

    def add(
        name: str, module: ModuleType, read: Callable[[argparse.Namespace], assemble.Archive]
    ) -> argparse.ArgumentParser:
        command = formats.add_parser(
            name,
            help=(module.__doc__ or "").splitlines()[0],
            description=module.__doc__,
            epilog="An example of every format: python -m cmarr_jax.data.importers --help",
            **FORM,
        )
        command.set_defaults(read=read)
        command.error = parser.error
        return command

    p = add("mmin", mmin, _read_mmin)
    p.add_argument("--features", required=True, help="folder with A, V and L")
    p.add_argument("--target", required=True, help="folder with one folder a fold")
    p.add_argument("--cv", default="1", help="the fold whose split is kept (default: 1)")
    for modality, letter in zip(_MODALITIES, "LAV", strict=True):
        p.add_argument(
            f"--{modality}", default="", metavar="NAME", help=f"which file of {letter}, if several"
        )
    _add_labels(p)

    p = add("mmsa", mmsa, _read_mmsa)
    p.add_argument("--file", required=True, help="the pickle")
    p.add_argument(
        "--label-key",
        default="",
        metavar="KEY",
        help="where the labels are (default: annotations; with --polarity regression_labels, "
        "else labels)",
    )
    _add_labels(p)

    for name, module, read, help_text in (
        ("gcnet", gcnet, _read_gcnet, "the label pickle"),
        ("merbench", merbench, _read_merbench, "the label archive, .npz"),
    ):
        p = add(name, module, read)
        p.add_argument("--labels", required=True, metavar="FILE", help=help_text)
        _add_features(p, "FOLDER")
        _add_labels(p)

    p = add("csv", table, _read_csv)
    p.add_argument("--utterances", required=True, metavar="FILE", help="the CSV file")
    _add_features(p, "PATH")
    _add_labels(p)

    for p in formats.choices.values():
        p.add_argument("--out", required=True, metavar="PACK", help="a new folder")
        p.add_argument("--name", default="", help="of the corpus in results (default: PACK's name)")
        p.add_argument(
            "--id-pattern",
            default="",
            metavar="REGEX",
            help="names session and speaker of an id, '(?P<session>..)..(?P<speaker>..)', and "
            "(?P<group>..) if wanted; not needed for ids of IEMOCAP and MSP-IMPROV",
        )
        p.add_argument(
            "--allow-missing",
            action="store_true",
            help="an utterance without features of a modality lacks it (else: an error)",
        )
        p.add_argument(
            "--keep-zero-rows",
            action="store_true",
            help="keep rows of zeros: padding and frames without a face; for aligned modalities",
        )
    return parser


def _add_features(p: argparse.ArgumentParser, metavar: str) -> None:
    for modality in _MODALITIES:
        p.add_argument(f"--{modality}", default="", metavar=metavar, help=f"{modality} features")


def _add_labels(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--classes",
        default="",
        metavar="A,B,...",
        help="class names in the order of the label numbers; needed unless the labels are names "
        "or the counts are IEMOCAP's or MSP-IMPROV's",
    )
    p.add_argument(
        "--polarity",
        default="",
        choices=tuple(POLARITIES),
        help="two classes from a score: has0 = negative against the rest, non0 = negative "
        "against positive, zero unlabelled",
    )


if __name__ == "__main__":
    sys.exit(main())
