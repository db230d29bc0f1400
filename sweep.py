"""Trains what a file of configs/sweeps/ lists, and collects all results in one tidy CSV.

    python sweep.py configs/sweeps/fig4.py --config configs/iemocap.py \\
        --config.data.pack=PACK --workdir=DIR

The file defines `sweep(add)`, which calls `add(argument, **fields)` once an entry: a config
argument such as "no_udcl", fields such as **{"train.learning_rate": 1e-3}, or both. Every other
flag goes to train.py as it stands, --dry-run too. Entries that differ in learning rate, weight
decay, loss weights or seeds alone are trained side by side, as further runs of one program; each
has a folder below DIR that holds what it would hold had it been trained alone. Given again, the
command leaves finished entries alone, goes on with a stopped one and trains what is missing,
entries that were added to the file meanwhile among them.

    DIR/sweep.csv    entry, its argument and fields, then the columns of results.csv and val_uar,
                     the best validation UAR of the run: a row a (entry, fold, seed, condition)

Exit codes: 0 done; 2 a mistake, named in one line; 3 done, but some run has no results.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from cmarr_jax.cli import arguments, boundary
from cmarr_jax.errors import UserError
from cmarr_jax.results.rows import read_results
from cmarr_jax.runtime.files import write_csv
from cmarr_jax.workdir import files
from cmarr_jax.workdir.status import has_results, is_ended

_TRAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train.py")
_STDERR = 2  # where the table of an entry that is trained by itself goes
_INTERRUPTED = (130, 143, -2, -15)  # the exit codes of a train.py that was told to stop


class Entry(NamedTuple):
    """One config that the file adds."""

    argument: str  # of the config file, "" = none
    fields: dict[str, Any]  # "train.learning_rate" -> value

    @property
    def setting(self) -> str:
        """All of it as one argument of the config file."""
        argument = [self.argument] if self.argument else []
        return ",".join(argument + [f"{k}={_text(v)}" for k, v in self.fields.items()])

    @property
    def name(self) -> str:
        """Names the entry's folder and its rows."""
        return self.setting or "default"


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit code."""
    parser = arguments.make_parser("python sweep.py", __doc__)
    parser.add_argument("file", metavar="FILE", help="of configs/sweeps/")
    parser.add_argument("--config", required=True, metavar="FILE[:ARGUMENT]", help="of configs/")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of all entries")

    def command() -> int:
        args, flags = parser.parse_known_args(argv)
        return _run(read(args.file), args.config, args.workdir, flags)

    return boundary.run(command, "the same command goes on from here")


def _run(entries: Sequence[Entry], config: str, workdir: str, flags: Sequence[str]) -> int:
    names = [flag.lstrip("-").split("=")[0] for flag in flags]
    for field in dict.fromkeys(field for entry in entries for field in entry.fields):
        if f"config.{field}" in names:
            raise UserError(f"--config.{field}: the sweep's entries set it; leave it out")
    file, _, argument = config.partition(":")
    arguments_of = {e.name: ",".join(filter(None, (argument, e.setting))) for e in entries}
    train = [sys.executable, _TRAIN]
    members = f"--config.members={tuple(arguments_of.items())}"
    command = [*train, f"--config={config}", members, *flags]
    done = subprocess.run([*command, f"--workdir={workdir}"])
    if "dry-run" in names:
        return done.returncode
    if done.returncode not in (0, 2, 3, *_INTERRUPTED):
        # It died of something: each of the others has a process of its own to die in.
        for name, own in arguments_of.items():
            folder = os.path.join(workdir, name)
            if not is_ended(folder):
                command = [*train, f"--config={file}" + (f":{own}" if own else ""), *flags]
                done = subprocess.run([*command, f"--workdir={folder}"], stdout=_STDERR)
                if done.returncode in _INTERRUPTED:
                    break
    missing = collect(workdir, entries)
    if done.returncode in _INTERRUPTED:
        return done.returncode if done.returncode > 0 else 128 - done.returncode
    if done.returncode == 2:
        return 2  # a mistake, which train.py has named
    print(f"{os.path.join(workdir, files.SWEEP)}: {len(entries) - len(missing)} entries")
    if missing:
        print(f"error: no results of {', '.join(missing)}; see their lines above", file=sys.stderr)
    return 3 if missing or done.returncode == 3 else 0


def read(file: str) -> list[Entry]:
    """The entries that a file adds, in its order.

    Raises:
      UserError: there is no such file, or it defines no `sweep(add)`; names what is wrong.
    """
    if not os.path.isfile(file):
        raise UserError(f"{file}: no such file; the sweeps are in configs/sweeps/")
    spec = importlib.util.spec_from_file_location("sweep_file", file)
    module = importlib.util.module_from_spec(spec)
    entries: dict[str, Entry] = {}

    def add(argument: str = "", **fields: Any) -> None:
        entry = Entry(argument, fields)
        if os.sep in entry.name:
            raise UserError(f"{entry.name!r}: names a folder, so it cannot hold {os.sep!r}")
        if entry.name in entries:
            raise UserError(f"{entry.name!r} is added twice")
        entries[entry.name] = entry

    try:
        spec.loader.exec_module(module)
        module.sweep(add)
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
        runs = files.read_json(os.path.join(folder, files.MODEL, files.MODEL_FACTS))["runs"]
        runs = [r for r in runs if r["val_uar"] is not None]
        val_uar = {(str(r["fold"]), str(r["seed"])): f"{r['val_uar']:.6f}" for r in runs}
        rows += [
            given | row | {"val_uar": val_uar.get((row["fold"], row["seed"]), "")}
            for row in read_results(folder)
        ]
    if rows:
        write_csv(os.path.join(workdir, files.SWEEP), rows)
    return [entry.name for entry in entries if entry not in done]


def _text(value: Any) -> str:
    return str(value).replace(" ", "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
