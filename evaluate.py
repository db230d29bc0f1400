"""Prints the table of a finished sweep, and draws it.

    python evaluate.py --workdir=DIR
    python evaluate.py --workdir=DIR --figure=conditions.pdf

of the folder of table2 or table3, the systems side by side with paired tests; of the folder of
fig4, the loss weights' effect; of a sweep with recovered representations, their t-SNE:

    python evaluate.py --workdir=DIR --table=2 --format=latex
    python evaluate.py --workdir=DIR --figure=4
    python evaluate.py --workdir=DIR/cmarr --figure=5

Reads the result files alone: neither the corpus nor the checkpoints are needed, and the folder
may have been copied from elsewhere.
"""

import os
import sys

from absl import flags

from cmarr_jax import cli, report
from cmarr_jax.errors import UserError
from configs import common, systems

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a sweep of train.py.")
_TABLE = flags.DEFINE_enum("table", None, ["2", "3"], "The paper's table of several systems.")
_FORMAT = flags.DEFINE_string("format", "text", "Of --table: text, markdown, latex or csv.")
_FIGURE = flags.DEFINE_string(
    "figure", None, "FILE.pdf or FILE.png: WAR and UAR per condition; 4 or 5: the paper's, both "
    "as PDF and PNG in the folder.",
)  # fmt: skip


def main() -> None:
    workdir = _WORKDIR.value
    if not workdir:
        raise UserError("--workdir: missing; name the folder of a sweep of train.py")
    if _TABLE.value:
        from cmarr_jax import tables  # scipy takes half a second to import

        members = common.TABLES[f"table{_TABLE.value}"]
        table = tables.compare(report.read_results(workdir), members)
        print(tables.render(table, _FORMAT.value, systems.TITLES))
    else:
        print(report.table(report.read_summary(workdir)))
    for run in report.stopped_runs(workdir):
        print(f"without {run}", file=sys.stderr)
    if not _FIGURE.value:
        return

    from cmarr_jax import figures  # matplotlib takes a second to import

    if _FIGURE.value == "4":
        files = [os.path.join(workdir, f"figure4.{kind}") for kind in ("pdf", "png")]
        figures.loss_weights(report.read_summary(workdir), files)
    elif _FIGURE.value == "5":
        files = [os.path.join(workdir, f"figure5.{kind}") for kind in ("pdf", "png")]
        overlap = figures.representations(report.read_representations(workdir), files)
        for name, share in overlap.items():
            print(f"{name}: {share:.2f} of the neighbours cross over (0.5 = no difference)")
    else:
        files = [_FIGURE.value]
        summary, confusion = report.read_summary(workdir), report.read_confusion(workdir)
        figures.conditions(summary, confusion, _FIGURE.value)
    print("drawn: " + ", ".join(files))


if __name__ == "__main__":
    cli.run(main)
