"""Shows, checks and audits a feature pack.

    python -m cmarr_jax.data describe PACK    what is inside
    python -m cmarr_jax.data validate PACK    every number, every protocol
    python -m cmarr_jax.data audit PACK       whether anything leaks, fold by fold

`validate` warns of what a person must judge. Exit codes: 0 sound; 2 something is wrong, in one
line, or a fold leaks.
"""

import argparse
import sys
from collections.abc import Sequence

from cmarr_jax.cli import boundary
from cmarr_jax.cli.arguments import FORM, make_parser
from cmarr_jax.data import audit, describe, pack
from cmarr_jax.runtime.files import write_json

_REMEDY = "; wanted `describe PACK` or `validate PACK` or `audit PACK`, see --help"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""

    def command() -> int:
        args = _parser().parse_args(argv)
        return {"describe": _describe, "validate": _validate, "audit": _audit}[args.command](args)

    return boundary.run(command)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("python -m cmarr_jax.data", __doc__, _REMEDY)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("describe", "what is inside a pack"),
        ("validate", "whether it can be trained"),
        ("audit", "whether anything leaks"),
    ):
        command = commands.add_parser(name, help=text, description=text, **FORM)
        command.error = parser.error
        command.add_argument("pack", metavar="PACK", help="folder of a feature pack")
        if name == "audit":
            command.add_argument(
                "--scheme",
                default="",
                choices=("auto", "session", "speaker", "split"),
                help="protocol.scheme (default: auto, the first of split, session and speaker "
                "that the pack admits)",
            )
            command.add_argument("--out", default="", metavar="FILE", help="also as JSON")
    return parser


def _describe(args: argparse.Namespace) -> int:
    print(describe.describe(pack.read(args.pack)))
    return 0


def _validate(args: argparse.Namespace) -> int:
    sound, warnings = describe.validate(pack.read(args.pack))
    for line in sound:
        print(f"ok       {line}")
    for line in warnings:
        print(f"warning  {line}")
    plural = "s" if len(warnings) > 1 else ""
    print(f"{args.pack}: valid" + (f", {len(warnings)} warning{plural}" if warnings else ""))
    return 0


def _audit(args: argparse.Namespace) -> int:
    found = audit.audit_pack(args.pack, args.scheme)
    print(audit.render(found))
    if args.out:
        write_json(args.out, found)
    audit.check(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
