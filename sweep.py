"""Trains what a file of configs/sweeps/ lists, ranks it by validation, collects all results.

    python sweep.py configs/sweeps/learning_rate.py --config configs/iemocap.py
    python sweep.py configs/sweeps/tuning.py --config configs/iemocap.py:mmin --nested

The file defines `sweep(add)`, which calls `add(argument, **fields)` once an entry: a config
argument such as "no_udcl", fields such as **{"train.learning_rate": 1e-3}, or both; name="..."
gives it another name than these. One whose entries depend on --config defines `sweep(add, config)`.
Every other flag goes to train.py as it stands, --dry-run too. Entries that differ in learning rate,
weight decay, loss weights or seeds alone are trained side by side, as further runs of one program;
each has a folder below DIR that holds what it would hold had it been trained alone. Given again,
the command leaves finished entries alone, goes on with a stopped one and trains what is missing,
entries that were added to the file meanwhile among them.

At the end stands the ranking by validation score, and the test scores of the first entry alone:
who chooses by test scores has none left to report. --all-test-scores prints those of all.

With --nested each fold takes the entry that is best on this fold's own validation part: its UAR,
the mean over the fold's seeds; of equal ones the first. Their results, joined, are those of one
tuned system, in DIR/tuned, which evaluate.py reads like any other and whose tables say how many
trials there were. Its test scores are printed instead of the first entry's.
configs/sweeps/tuning.py has eight trials for every system; tuned systems side by side:

    python evaluate.py --table=own --workdir=DIR_1/tuned --workdir=DIR_2/tuned

    DIR/sweep.csv    entry, its argument and fields, then the columns of results.csv and val_uar,
                     the best validation UAR of the run: a row a (entry, fold, seed, condition)
    DIR/ranking.png  the ranking as a figure, and as ranking.pdf
    DIR/tuned/       with --nested; its tuning.csv has a row a (fold, entry): the validation UAR,
                     whether it was chosen, how many of its runs were stopped

Exit codes: 0 done; 1 a fault of the program; 2 a mistake, named in one line; 3 done, but some run
has no results; 130 interrupted, resumable.
"""

import importlib.util
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from cmarr_jax.cli import arguments, boundary, config_files, places
from cmarr_jax.errors import UserError
from cmarr_jax.results import nested
from cmarr_jax.results.rows import read_results, read_runs, read_summary
from cmarr_jax.results.summary import summarise, summary_table
from cmarr_jax.runtime.files import write_csv
from cmarr_jax.workdir import files
from cmarr_jax.workdir.status import has_results, is_ended

_TRAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train.py")
_INTERRUPTED = (130, 143, -2, -15)  # the exit codes of a train.py that was told to stop


class Entry(NamedTuple):
    """One config that the file adds."""

    argument: str  # of the config file, "" = none
    fields: dict[str, Any]  # "train.learning_rate" -> value
    given: str = ""  # its name in the file

    @property
    def setting(self) -> str:
        """All of it as one argument of the config file."""
        argument = [self.argument] if self.argument else []
        return ",".join(argument + [f"{k}={_text(v)}" for k, v in self.fields.items()])

    @property
    def name(self) -> str:
        """Names the entry's folder and its rows."""
        return self.given or self.setting or "default"


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit code."""
    parser = arguments.make_parser("python sweep.py", __doc__)
    parser.add_argument("file", metavar="FILE", help="of configs/sweeps/")
    parser.add_argument("--config", required=True, metavar="FILE[:ARGUMENT]", help="of configs/")
    parser.add_argument(
        "--workdir", metavar="DIR", help="of all entries; without it, results/NAME[-ARGUMENT]-FILE"
    )
    parser.add_argument(
        "--all-test-scores", action="store_true", help="print those of every entry, not the first's"
    )
    parser.add_argument(
        "--nested", action="store_true", help="choose in each fold; the results are DIR/tuned"
    )

    def command() -> int:
        args, flags = parser.parse_known_args(argv)
        stem = os.path.splitext(os.path.basename(args.file))[0]
        workdir = args.workdir or f"{places.workdir(args.config)}-{stem}"
        entries = read(args.file, args.config)
        if args.nested:
            _check_nested(entries, args.config, workdir, flags)
        return _run(entries, args.config, workdir, flags, args.all_test_scores, args.nested)

    os.environ["MPLBACKEND"] = "agg"  # it writes files
    return boundary.run(command, "the same command goes on from here")


def _run(
    entries: Sequence[Entry],
    config: str,
    workdir: str,
    flags: Sequence[str],
    all_test_scores: bool = False,
    choose_in_folds: bool = False,
) -> int:
    names = [flag.lstrip("-").split("=")[0] for flag in flags]
    for field in dict.fromkeys(field for entry in entries for field in entry.fields):
        if f"config.{field}" in names:
            raise UserError(f"--config.{field}: the sweep's entries set it; leave it out")
    file, _, argument = config.partition(":")
    arguments_of = {e.name: ",".join(filter(None, (argument, e.setting))) for e in entries}
    train = [sys.executable, _TRAIN]
    members = f"--config.members={tuple(arguments_of.items())}"
    command = [*train, f"--config={config}", members, *flags]
    command.append(f"--workdir={workdir}")
    if "dry-run" in names:
        return subprocess.run(command).returncode
    done = _train(command)
    if done.returncode not in (0, 2, 3, *_INTERRUPTED):
        # It died of something: each of the others has a process of its own to die in.
        for name, own in arguments_of.items():
            folder = os.path.join(workdir, name)
            if not is_ended(folder):
                command = [*train, f"--config={file}" + (f":{own}" if own else ""), *flags]
                done = _train([*command, f"--workdir={folder}"])
                if done.returncode in _INTERRUPTED:
                    break
    missing = collect(workdir, entries)
    if done.returncode in _INTERRUPTED:
        return done.returncode if done.returncode > 0 else 128 - done.returncode
    if done.returncode == 2:
        return 2  # a mistake, which train.py has named
    done_entries = [entry for entry in entries if entry.name not in missing]
    print(f"{os.path.join(workdir, files.SWEEP)}: {len(done_entries)} entries\n")
    if done_entries:
        print(conclude(workdir, done_entries, all_test_scores, not choose_in_folds))
    if choose_in_folds and all(is_ended(os.path.join(workdir, e.name)) for e in entries):
        print("\n" + tune(workdir, entries, config))
    elif choose_in_folds:
        print(
            "--nested: chooses when every entry has ended; the same command goes on",
            file=sys.stderr,
        )
    if missing:
        print(f"error: no results of {', '.join(missing)}; see their lines above", file=sys.stderr)
    return 3 if missing or done.returncode == 3 else 0


def _train(command: Sequence[str]) -> subprocess.CompletedProcess:
    """Runs train.py, whose table of test scores is not shown."""
    # Ctrl-C reaches train.py too, which saves and ends; to wait for it is all there is to do.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, before)


def _check_nested(
    entries: Sequence[Entry], config: str, workdir: str, flags: Sequence[str]
) -> None:
    """Refuses at once what could not be chosen from after hours of training."""
    if len(entries) < 2:
        raise UserError("--nested: the file adds one entry alone, and there is nothing to choose")
    if any(entry.name == files.TUNED for entry in entries):
        raise UserError(f"--nested: an entry is named {files.TUNED!r}, as the results; rename it")
    known = {files.TUNED, *(entry.name for entry in entries)}
    for name in sorted(os.listdir(workdir)) if os.path.isdir(workdir) else ():
        if name not in known and os.path.exists(os.path.join(workdir, name, files.STATUS)):
            raise UserError(
                f"--nested: {os.path.join(workdir, name)} was trained too, but the file no longer "
                "adds it, so the table would count too few trials; add it again, or name a new "
                "--workdir"
            )
    own = config_files.get(config).protocol
    given = dict(f.lstrip("-").removeprefix("config.").partition("=")[::2] for f in flags)
    on_test = given.get("protocol.select_on_test", str(own.select_on_test))
    if on_test.lower() not in ("false", "0"):
        raise UserError(
            "--config.protocol.select_on_test: validates on the test part, which would choose the "
            "entry too; wanted without --nested"
        )
    if given.get("protocol.validation", own.validation) == "none":
        raise UserError(
            "--config.protocol.validation=none: leaves nothing to choose an entry by; wanted "
            "without --nested"
        )


def tune(workdir: str, entries: Sequence[Entry], config: str) -> str:
    """Writes DIR/tuned; returns what each fold chose, and the test scores."""
    folder = os.path.join(workdir, files.TUNED)
    trials = [nested.Trial(e.name, os.path.join(workdir, e.name), e.fields) for e in entries]
    choices = nested.write(folder, trials, config_files.get(config).variant)
    lines = [f"{len(trials)} trials, chosen in each fold by its own validation part:", ""]
    lines += [nested.table(choices), "", f"Test scores of what was chosen, {folder}:", ""]
    return "\n".join([*lines, summary_table(read_summary(folder))]).rstrip()


def conclude(
    workdir: str, entries: Sequence[Entry], all_test_scores: bool, of_first: bool = True
) -> str:
    """The ranking by validation, which it draws too, and the test scores of the first entry."""
    # matplotlib takes a second to import
    from cmarr_jax.results import figure_files, ranking

    results = {e.name: read_results(os.path.join(workdir, e.name)) for e in entries}
    ranked = ranking.rank({e.name: _val_uar(os.path.join(workdir, e.name)) for e in entries})
    lines = []
    if ranked:
        chosen = ranked[0].name
        caption = (
            "Validation UAR of each entry, the chosen epoch's, all conditions pooled; mean and "
            f"standard deviation over {ranked[0].runs} runs. Chosen: {chosen}."
        )
        figures = [os.path.join(workdir, f"ranking.{kind}") for kind in ("png", "pdf")]
        figure_files.write(ranking.figure(ranked), figures, caption)
        lines += ["Ranking by the validation part, which the epoch is chosen on:"]
        lines += ["", ranking.table(ranked), "", f"drawn: {', '.join(figures)}", ""]
        if any("SELECTED ON TEST" in row["protocol"] for row in results[chosen]):
            lines += ["validation is the test part here (protocol.select_on_test)", ""]
        if of_first:
            lines += [f"Test scores of the chosen entry, {chosen}:", ""]
            lines += [summary_table(summarise(results[chosen]))]
    else:
        lines += ["no run has a validation part: there is nothing to rank the entries by", ""]
    if all_test_scores:
        lines += ["Test scores of all entries, to report and not to choose by:", ""]
        for name, rows in results.items():
            lines += [f"{name}:", summary_table(summarise(rows))]
    return "\n".join(lines).rstrip()


def _val_uar(folder: str) -> dict[tuple[str, str], float]:
    """(fold, seed) -> the validation UAR of each run that has one."""
    found = {(str(r["fold"]), str(r["seed"])): r["val_uar"] for r in read_runs(folder)}
    return {run: uar for run, uar in found.items() if uar is not None}


def read(file: str, config: str) -> list[Entry]:
    """The entries that a file adds to the config FILE[:ARGUMENT], in its order.

    Raises:
      UserError: there is no such file, or it defines no `sweep(add)`; names what is wrong.
    """
    if not os.path.isfile(file):
        raise UserError(f"{file}: no such file; the sweeps are in configs/sweeps/")
    spec = importlib.util.spec_from_file_location("sweep_file", file)
    module = importlib.util.module_from_spec(spec)
    entries: dict[str, Entry] = {}

    def add(argument: str = "", name: str = "", **fields: Any) -> None:
        entry = Entry(argument, fields, name)
        if os.sep in entry.name:
            raise UserError(f"{entry.name!r}: names a folder, so it cannot hold {os.sep!r}")
        if entry.name in entries:
            raise UserError(f"{entry.name!r} is added twice")
        entries[entry.name] = entry

    try:
        spec.loader.exec_module(module)
        depends = len(inspect.signature(module.sweep).parameters) > 1
        module.sweep(add, *([config_files.get(config)] if depends else []))
    except Exception as e:  # the user's own code can raise anything
        reason = f"{type(e).__name__}: {e}" if not isinstance(e, UserError) else str(e)
        raise UserError(f"{file}: {reason.splitlines()[0]}; wanted def sweep(add)") from None
    if not entries:
        raise UserError(f"{file}: adds no entry; call add(...) in sweep(add)")
    return list(entries.values())


def collect(workdir: str, entries: Sequence[Entry]) -> list[str]:
    """Writes DIR/sweep.csv from the entries that have results.

    Returns:
      The names of the others.

    Raises:
      UserError: a file of an entry is damaged, or sweep.csv cannot be written.
    """
    folder_of = {entry.name: os.path.join(workdir, entry.name) for entry in entries}
    done = [e for e in entries if is_ended(folder_of[e.name]) and has_results(folder_of[e.name])]
    names = list(dict.fromkeys(name for entry in entries for name in entry.fields))
    rows = []
    for entry in done:
        folder = folder_of[entry.name]
        given = {"entry": entry.name, "argument": entry.argument}
        given |= {name: _text(entry.fields[name]) if name in entry.fields else "" for name in names}
        val_uar = _val_uar(folder)
        for row in read_results(folder):
            of_run = val_uar.get((row["fold"], row["seed"]))
            shown = "" if of_run is None else f"{of_run:.6f}"
            rows.append(given | row | {"val_uar": shown})
    if rows:
        write_csv(os.path.join(workdir, files.SWEEP), rows)
    return [entry.name for entry in entries if entry not in done]


def _text(value: Any) -> str:
    return str(value).replace(" ", "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
