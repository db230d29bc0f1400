"""CREMA-D, six emotions, five folds of actors: CM-ARR on frozen features.

    python train.py --config configs/cremad.py

The pack data/cremad holds 7,442 clips with speech, or speech and video, see docs/extraction.md;
results go to results/cremad. With speech alone nothing can be missing: any system is then a plain
classifier. Never run on the whole corpus here: no numbers are promised. Arguments pick variants
and systems, see configs/common.py.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str | None = None) -> ConfigDict:
    return common.with_variants(common.get_config(), argument)
