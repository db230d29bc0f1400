"""MELD, seven emotions, its own train, dev and test parts: CM-ARR on frozen features.

    python train.py --config configs/meld.py

The pack data/meld holds 13,708 utterances (9,989 / 1,109 / 2,610), see docs/extraction.md; results
go to results/meld. Nearly half of the utterances are neutral: UAR says more than WAR, and
--config.train.balance_classes=True weighs classes by their counts. Never run on the whole corpus
here: no numbers are promised. Arguments pick variants and systems, see configs/common.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str | None = None) -> ConfigDict:
    return common.with_variants(common.get_config(), argument)
