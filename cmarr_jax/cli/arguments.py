"""What the commands that read their flags with argparse share."""

import argparse
import sys
from typing import Any, NoReturn

# Of the command and of each of its sub-commands: help is a docstring, as it is written.
FORM: dict[str, Any] = {
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "allow_abbrev": False,
}


def make_parser(prog: str, description: str, remedy: str = "") -> argparse.ArgumentParser:
    """A parser that says what is wrong in one line, `remedy` at its end, and exits with 2."""
    parser = argparse.ArgumentParser(prog=prog, description=description, **FORM)
    parser.error = lambda message: fail(message + remedy)
    return parser


def fail(message: str) -> NoReturn:
    """Says `message` as a user's mistake and exits with code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(2)
