"""From the official release of a corpus to a feature pack.

    python -m cmarr_jax.extract iemocap --root IEMOCAP_full_release --list
    python -m cmarr_jax.extract iemocap --root IEMOCAP_full_release --out data/iemocap \\
        --text-model bert-base-uncased --speech-model facebook/wav2vec2-base
    python -m cmarr_jax.extract msp_improv --root MSP-IMPROV --scenarios S
    python -m cmarr_jax.extract csv --root MINE.csv
    python -m cmarr_jax.extract csv --help           the layout that a corpus must have

Text is encoded by BERT or its kin, speech by wav2vec 2.0, its kin or Whisper, faces by a ViT; each
is frozen. A run that was stopped goes on when the same command is given again and ends with the
same pack, byte for byte. What could not be read stands in PACK/problems.csv.

Exit codes: 0 done; 2 a mistake in the command or its input, named in one line; 3 the pack is
written but more utterances than --max-bad lack a modality; 130 interrupted.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence

from cmarr_jax.cli import boundary
from cmarr_jax.cli.bar import Bars
from cmarr_jax.data import pack as pack_lib
from cmarr_jax.data.protocol import natural
from cmarr_jax.data.utterances import SPLITS
from cmarr_jax.errors import UserError
from cmarr_jax.extract import engine, flags, result
from cmarr_jax.extract.corpora import cremad, iemocap, meld, msp_improv, ravdess, table
from cmarr_jax.extract.source import Release, Source, Utterance

_READERS = {
    "iemocap": iemocap,
    "msp_improv": msp_improv,
    "meld": meld,
    "cremad": cremad,
    "ravdess": ravdess,
    "csv": table,
}
_MODALITIES = {"t": "text", "s": "speech", "v": "video"}
_SHOWN_WARNINGS = 10
_SHOWN_PARTS = 30  # rows of --list


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return boundary.run(
        lambda: _run(flags.parser(__doc__, _READERS).parse_args(argv)),
        "the same command goes on from here",
    )


def _run(args: argparse.Namespace) -> int:
    try:
        return _extract(args)
    except BrokenPipeError:
        raise
    except OSError as e:
        raise UserError(
            f"{e}; what is finished is kept and the same command goes on from it"
        ) from e


def _extract(args: argparse.Namespace) -> int:
    progress = Bars(args.quiet)
    release, options = _scan(args)
    name = release.name or args.corpus
    out = args.out or os.path.join("data", name)
    turns, warnings = len(release.utterances), release.warnings
    utterances = [u for u in release.utterances if u.label or args.keep_unlabelled]
    if not utterances:
        raise UserError(
            f"--root={args.root}: none of {turns} turns has one of the labels "
            f"{', '.join(release.class_names)}"
        )
    for line in warnings[:_SHOWN_WARNINGS]:
        progress.warn(line)
    if len(warnings) > _SHOWN_WARNINGS:
        progress.warn(f"and {len(warnings) - _SHOWN_WARNINGS} more like these")
    if args.list:
        print(_listing(name, turns, utterances))
        return 0
    progress.say(f"{name}: {turns} turns, {len(utterances)} of them for the pack {out}")
    from cmarr_jax.runtime.devices import prepare_to_compile

    prepare_to_compile()
    sources = _sources(args, release._replace(utterances=utterances))
    for path in filter(None, (args.video_features, args.faces)):
        from cmarr_jax.extract import video

        for line in video.unread(path, [u.id for u in utterances]):
            progress.warn(line)
    report = engine.extract(
        out,
        result.Corpus(
            name=name,
            class_names=release.class_names,
            utterances=utterances,
            provenance={
                "made_by": "cmarr_jax.extract",
                "options": options,
                "models": {s.modality: getattr(args, f"{s.modality}_model") for s in sources},
                "warnings": warnings,
            },
        ),
        sources,
        dtype=args.store_dtype,
        environment=_environment(),
        cache=args.cache,
        progress=progress,
    )
    print(_summary(out, report))
    return _verdict(report, out, args.max_bad)


def _scan(args: argparse.Namespace) -> tuple[Release, dict]:
    reader = _READERS[args.corpus]
    if not os.path.exists(args.root):
        raise UserError(f"--root={args.root}: no such file or folder; see {args.corpus} --help")
    options = flags.options(args, reader)
    return reader.scan(args.root, **options), {"corpus": args.corpus, **options}


def _sources(args: argparse.Namespace, release: Release) -> list[Source]:
    """The sources of the chosen modalities; encoders are imported only where they are needed."""
    utterances = release.utterances
    has_input = {
        "t": any(u.text for u in utterances),
        "s": any(u.wav for u in utterances),
        "v": any(u.video for u in utterances) or args.video_features or args.faces,
    }
    with_video = args.video_model or args.video_features or args.faces
    with_video = with_video or args.face_margin is not None or args.face_size
    default = [x for x in (release.modalities, "v" if with_video else "") if x]
    letters = (args.modalities or ",".join(default)).split(",")
    if letters == [""]:
        raise UserError(
            f"--root={args.root}: no turn has a transcript or sound; for faces alone give "
            "--video-model or --video-features"
        )
    if set(letters) - set(_MODALITIES) or len(set(letters)) < len(letters):
        raise UserError(f"--modalities={args.modalities}: wanted some of t,s,v, each once")
    if with_video and "v" not in letters:
        raise UserError(
            f"--modalities={args.modalities}: leaves out v, but a video option is given"
        )
    for letter in letters:
        if not has_input[letter]:
            files = {"t": "transcript", "s": "wav file", "v": "video file"}[letter]
            raise UserError(
                f"--modalities={','.join(letters)}: no turn has a {files} under {args.root}; "
                f"leave {letter} out or complete the release"
            )
    dtype = args.dtype or _default_dtype()
    layers = _layers(args.layers, [_MODALITIES[letter] for letter in letters])
    _pin_models(args, letters)
    sources = []
    if "t" in letters:
        from cmarr_jax.extract import text

        sources.append(
            text.source(
                args.text_model,
                keep_special_tokens=args.keep_special_tokens,
                max_length=args.max_tokens,
                dtype=dtype,
                layers=layers["text"],
            )
        )
    if "s" in letters:
        from cmarr_jax.extract import speech

        sources.append(
            speech.source(
                args.speech_model,
                max_seconds=args.max_seconds,
                dtype=dtype,
                layers=layers["speech"],
            )
        )
    if "v" in letters:
        from cmarr_jax.extract import video

        sources.append(
            video.source(
                model=args.video_model,
                features=args.video_features,
                faces=args.faces,
                fps=args.video_fps,
                margin=args.face_margin,
                size=args.face_size,
                layers=layers["video"],
                dtype=dtype,
            )
        )
    return sources


def _pin_models(args: argparse.Namespace, letters: Sequence[str]) -> None:
    """Replaces names on the hub by NAME@COMMIT, so that the pack says what it was made with."""
    from cmarr_jax.extract import denseface, pretrained

    if args.quiet:  # of downloads; the hub's client reads it when it is imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "v" in letters and not args.video_features:
        args.video_model = args.video_model or flags.VIDEO_MODEL
    for letter, flag in {"t": "text_model", "s": "speech_model", "v": "video_model"}.items():
        model = getattr(args, flag)
        if letter in letters and model and not model.endswith(denseface.SUFFIXES):
            if args.revision and "@" not in model and not os.path.exists(model):
                model = f"{model}@{args.revision}"
            setattr(args, flag, pretrained.pinned(model, Bars(args.quiet)))


def _layers(said: Sequence[str], modalities: Sequence[str]) -> dict[str, str]:
    """Modality -> what `--layers` says of it; a later one replaces an earlier one."""
    layers = dict.fromkeys(modalities, "last")
    for each in said:
        modality, _, which = each.rpartition("=")
        if modality and modality not in layers:
            forms = ", ".join(f"{modality}=WHICH" for modality in layers)
            raise UserError(f"--layers={each}: wanted WHICH or, of these modalities, {forms}")
        layers |= dict.fromkeys([modality] if modality else layers, which)
    return layers


def _default_dtype() -> str:
    import jax

    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def _environment() -> dict[str, str]:
    """What the numbers depend on besides the recipes: runs that differ in it are not mixed."""
    import jax

    return {"jax": jax.__version__, "platform": jax.default_backend()}


def _listing(corpus: str, turns: int, utterances: Sequence[Utterance]) -> str:
    """Turns by class and official part, or session, and how many have their files."""
    field = "split" if any(u.split for u in utterances) else "session"
    classes = sorted({u.label for u in utterances}, key=lambda name: (name == "", natural(name)))
    files = {"transcript": "text", "wav": "wav", "video": "video"}
    parts: dict[str, list[Utterance]] = {}
    for u in utterances:
        parts.setdefault(getattr(u, field), []).append(u)
    names = sorted(parts, key=(*SPLITS, "").index if field == "split" else natural)
    shown = names if len(names) <= _SHOWN_PARTS else []
    rows = [[field, *(name or "none" for name in classes), "total", *files]]
    for name, part in [*((n or "none", parts[n]) for n in shown), ("all", utterances)]:
        labels = Counter(u.label for u in part)
        found = [sum(getattr(u, f) is not None for u in part) for f in files.values()]
        rows.append([name, *(labels[c] for c in classes), len(part), *found])
    widths = [max(len(str(row[k])) for row in rows) + 2 for k in range(len(rows[0]))]
    lines = ["".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
    if not shown:
        lines.append(f"{len(names)} {field}s")
    return "\n".join([f"{corpus}: {turns} turns in the release", *lines])


def _summary(out: str, report: result.Report) -> str:
    pack = pack_lib.read(out)
    classes = Counter(pack.columns["label"].tolist())
    counts = ", ".join(f"{classes[name]} {name}" for name in pack.class_names)
    lines = [f"{out}: {len(pack.labels)} utterances ({counts})"]
    for modality, statuses in report.statuses.items():
        features = pack.features[modality]
        lines.append(
            f"  {modality}: {features.shape[0]} rows of {features.shape[1]} {features.dtype}; "
            + ", ".join(f"{count} {status}" for status, count in statuses.items())
        )
    return "\n".join(lines)


def _verdict(report: result.Report, out: str, max_bad: float) -> int:
    worst = max(report.statuses, key=report.bad_share)
    share = report.bad_share(worst)
    if share <= max_bad:
        return 0
    print(
        f"error: {worst}: {share:.1%} of {report.num_utterances} utterances have no features, more "
        f"than --max-bad={max_bad}; see {os.path.join(out, 'problems.csv')}",
        file=sys.stderr,
    )
    return 3


if __name__ == "__main__":
    sys.exit(main())
