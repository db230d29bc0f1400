"""What the commands that read their flags with argparse share."""

import argparse
import sys
from typing import Any, NoReturn

# For a command and its sub-commands: the help text is a docstring, printed as it is written.
FORM: dict[str, Any] = {
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "allow_abbrev": False,
}


def make_parser(prog: str, description: str, remedy: str = "") -> argparse.ArgumentParser:
    """A parser that prints an error as one line, with `remedy` at its end, and exits with 2."""
    parser = argparse.ArgumentParser(prog=prog, description=description, **FORM)
    parser.error = lambda message: fail(message + remedy)
    return parser


def fail(message: str) -> NoReturn:
    """Prints `message` as a user's mistake and exits with code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(2)
