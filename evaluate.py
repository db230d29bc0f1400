"""Prints the table of a finished sweep, and draws it.

    python evaluate.py --workdir=DIR
    python evaluate.py --workdir=DIR --figure=conditions.pdf

Reads the result files alone: neither the corpus nor the checkpoints are needed, and the folder
may have been copied from elsewhere.
"""

from absl import flags

from cmarr_jax import cli, report
from cmarr_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a sweep of train.py.")
_FIGURE = flags.DEFINE_string("figure", None, "Draw WAR and UAR per condition: .pdf or .png.")


def main() -> None:
    if not _WORKDIR.value:
        raise UserError("--workdir: missing; name the folder of a sweep of train.py")
    summary = report.read_summary(_WORKDIR.value)
    print(report.table(summary))
    if _FIGURE.value:
        from cmarr_jax import figures  # matplotlib takes a second to import

        figures.conditions(summary, report.read_confusion(_WORKDIR.value), _FIGURE.value)
        print(f"drawn: {_FIGURE.value}")


if __name__ == "__main__":
    cli.run(main)
