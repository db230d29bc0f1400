"""Class probabilities for utterances, by a model that train.py left in its work directory.

    python -m cmarr_jax.predict --workdir DIR --text "I told you!" --wav turn.wav --video turn.mp4
    python -m cmarr_jax.predict --workdir DIR --pack PACK --out predictions.jsonl
    python -m cmarr_jax.predict --workdir DIR --csv inputs.csv

Any of --text, --wav and --video will do; what is not given counts as missing. inputs.csv has the
column id and any of text, wav, video, paths being relative to it. The encoders are those that the
training corpus was extracted with; if they have moved, say where by --text-model and so on.

Of a video the whole picture and all of its length count, and the largest face. A model of IEMOCAP
has seen the speaker's half of the picture: cut a video with two people likewise, see
docs/prediction.md.

A line of JSON an utterance:

    id, predicted
    posterior      class -> probability, the mean over the models of all folds and seeds
    spread         class -> deviation of that probability between the models; null for one model
    variance       modality -> mean variance of its Gaussian embedding (CM-ARR); else null
    present        modalities that were given and could be read
    reconstructed  modalities that the model recovered; none if its system recovers nothing
    problems       modality -> why it could not be read, or that it was cut; raw input alone

Exit codes: 0 done; 2 a mistake in the command or its input, named in one line; 3 done, but some
utterance has no modality left, so its posterior is null; 130 interrupted.
"""

import argparse
import contextlib
import csv
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn, TextIO

from cmarr_jax.cli import arguments, boundary
from cmarr_jax.cli.bar import track
from cmarr_jax.data.values import is_missing
from cmarr_jax.errors import UserError
from cmarr_jax.runtime.files import opened

_VIDEOS = 8  # utterances encoded together where videos are: each takes seconds
_LONGEST = 1 << 24  # characters of a field of --csv; Python's own limit is 131,072
_COLUMNS = {"text": "text", "wav": "speech", "video": "video"}  # of --csv, and the modality


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit code."""
    return boundary.run(lambda: _run(_parser().parse_args(argv)), "--out is not written")


def _parser() -> argparse.ArgumentParser:
    parser = arguments.make_parser("python -m cmarr_jax.predict", __doc__)
    add = parser.add_argument
    add("--workdir", metavar="DIR", help="of a finished sweep, or its folder 'model' alone")
    add("--fold", type=int, default=0, metavar="N", help="the models of this fold alone")
    add("--out", metavar="FILE", help="JSON lines, whole or not at all (default: standard output)")
    add = parser.add_argument_group("one utterance").add_argument
    add("--text", help="its transcript")
    add("--wav", metavar="FILE", help="any sound file that libsndfile reads")
    add("--video", metavar="FILE", help="any video that OpenCV reads; its largest face is taken")
    add = parser.add_argument_group("many").add_argument
    add("--pack", metavar="PACK", help="a feature pack of the kind that the model was trained on")
    add("--csv", metavar="FILE", help="columns id and any of text, wav, video")
    add = parser.add_argument_group("encoders, if they have moved").add_argument
    add("--text-model", metavar="DIR|NAME")
    add("--speech-model", metavar="DIR|NAME")
    add("--video-model", metavar="CHECKPOINT")
    return parser


def _run(args: argparse.Namespace) -> int:
    if not args.workdir:
        raise UserError("--workdir: missing; name the folder of a finished sweep of train.py")
    one = {column: getattr(args, column) for column in _COLUMNS}
    kinds = [any(v is not None for v in one.values()), bool(args.pack), bool(args.csv)]
    if sum(kinds) != 1:
        raise UserError(
            f"{'two kinds of input' if sum(kinds) else 'nothing to predict'}: wanted either some "
            "of --text, --wav and --video, or --pack, or --csv"
        )
    for flag in ("wav", "video"):
        if one[flag] is not None and not os.path.isfile(one[flag]):
            raise UserError(f"--{flag}={one[flag]}: no such file")
    if args.out and not os.path.isdir(os.path.dirname(os.path.abspath(args.out))):
        raise UserError(f"--out={args.out}: its folder does not exist")

    from cmarr_jax.predictor import Predictor  # JAX takes seconds to import
    from cmarr_jax.runtime.devices import prepare_to_compile

    prepare_to_compile()
    predictor = Predictor(args.workdir, fold=args.fold)
    if args.pack:
        total, lines = _of_pack(predictor, args)
    else:
        rows = [{"id": "input", **one}] if kinds[0] else _read_csv(args.csv)
        total, lines = len(rows), _of_raw(predictor, rows, args)
        if kinds[0]:
            lines = [_only(lines)]
    empty = harmed = 0
    start = time.monotonic()
    if total > 1 and (args.out or not sys.stdout.isatty()):  # a bar would stand amid the lines
        lines = track(lines, "predicting", total=total)
    with _output(args.out) as out:
        for line in lines:
            empty += line["posterior"] is None
            harmed += bool(line.get("problems"))
            out.write(json.dumps(line) + "\n")
    if total > 1:
        seconds = time.monotonic() - start
        print(
            f"{total} utterances in {seconds:.1f} s, {total / seconds:.0f} a second",
            file=sys.stderr,
        )
    if harmed and total > 1:
        print(
            f"{harmed} of {total} utterances have input that could not be read or was cut; "
            "their lines say why, under problems",
            file=sys.stderr,
        )
    if empty:
        print(f"{empty} of {total} utterances have no modality left", file=sys.stderr)
    return 3 if empty else 0


def _of_pack(predictor, args) -> tuple[int, Iterator[dict]]:
    from cmarr_jax.data import pack as pack_lib

    pack = pack_lib.read(args.pack)
    if pack.name == predictor.facts["corpus"] and not args.fold:
        print(
            f"note: the model was trained on {pack.name}; only the test part of a fold is new to "
            "that fold's models (--fold)",
            file=sys.stderr,
        )
    if odd := [m for m in pack.modalities if m not in predictor.facts["modalities"]]:
        print(
            f"note: {args.pack}: {', '.join(odd)} of {len(pack.labels)} utterances is not read; "
            "the model does not know it",
            file=sys.stderr,
        )
    return len(pack.labels), (p._asdict() for p in predictor.of_read_pack(pack))


def _of_raw(predictor, rows: Sequence[dict], args) -> Iterator[dict]:
    """Lines of raw utterances, encoded and predicted a batch at a time."""
    from cmarr_jax.extract import raw
    from cmarr_jax.predictor import BATCH

    encoders = predictor.facts["encoders"]
    given = [m for column, m in _COLUMNS.items() if any(row[column] is not None for row in rows)]
    models = {m: getattr(args, f"{m}_model") for m in given}
    sources = raw.open_sources(encoders, models, alone=len(rows) == 1)
    stored_as = {m: encoders[m]["stored_as"] for m in given}
    size = min(len(rows), _VIDEOS if "video" in given else BATCH)
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        batch = [raw.utterance(row["id"], *(row[c] for c in _COLUMNS)) for row in chosen]
        features, problems = raw.encode(sources, batch, stored_as)
        ids = [u.id for u in batch]
        predictions = predictor.of_features(ids, features, batch_size=size)
        for prediction, problem in zip(predictions, problems, strict=True):
            yield prediction._asdict() | {"problems": problem}


def _only(lines: Iterator[dict]) -> dict:
    """The one line there is; refused if nothing of the utterance could be read."""
    (line,) = lines
    if line["posterior"] is None:
        reasons = "; ".join(f"{m} is {reason}" for m, reason in line["problems"].items())
        raise UserError(f"nothing to predict from: {reasons}")
    return line


def _read_csv(file: str) -> list[dict[str, str | None]]:
    csv.field_size_limit(_LONGEST)
    try:
        with open(file, newline="", encoding="utf-8-sig") as f:  # spreadsheets put a mark in front
            reader = csv.DictReader(f, strict=True)
            rows, header = list(reader), reader.fieldnames or []
    except FileNotFoundError:
        raise UserError(f"--csv={file}: no such file") from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"--csv={file}: not a UTF-8 CSV file ({e})") from None
    if "id" not in header or not set(header) <= {"id", *_COLUMNS} or len(header) < 2 or not rows:
        raise UserError(
            f"--csv={file}: the header is {','.join(header)!r} above {len(rows)} rows; wanted id, "
            "some of text, wav, video, and a row or more"
        )
    folder = os.path.dirname(os.path.abspath(file))
    inputs, seen = [], set()
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"--csv={file}: row {number} has not {len(header)} fields")
        if row["id"] in seen or not row["id"]:
            raise UserError(f"--csv={file}: row {number} has id {row['id']!r}, wanted a new one")
        seen.add(row["id"])
        values = {column: row.get(column) or None for column in _COLUMNS}
        for column in ("wav", "video"):
            if is_missing(values[column]):
                values[column] = None
            else:
                values[column] = os.path.join(folder, values[column])
        inputs.append({"id": row["id"], **values})
    return inputs


@contextlib.contextmanager
def _output(file: str | None) -> Iterator[TextIO]:
    """Standard output, or `file` that appears when all is written."""
    if not file:
        yield sys.stdout
        return
    with opened(file, "w") as f:
        yield f


def command() -> NoReturn:
    """The command in a process of its own."""
    # distrax would import TensorFlow where it is installed: four seconds, and nothing needs it.
    sys.modules.setdefault("tensorflow", None)
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    command()
