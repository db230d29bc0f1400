import numpy as np
import pytest

from cmarr_jax import figures
from cmarr_jax.errors import UserError


def test_cross_over_is_a_half_for_one_cloud_and_zero_for_two(rng):
    a, b = rng.normal(size=(2, 300, 4))
    assert abs(figures.cross_over(a, b) - 0.5) < 0.03
    assert figures.cross_over(a, b + 50) == 0


def test_loss_weights_are_drawn_with_embedded_fonts(rng, tmp_path):
    rows = [
        {
            "variant": f"pooled,{name}={weight}", "condition": condition, "runs": "5",
            "war": "0.6", "war_std": "0.02", "uar": "0.55", "uar_std": "",
        }
        for name in ("alpha", "beta", "lambda")
        for weight in (0.1, 1.0, 10.0)
        for condition in ("t", "avg")
    ]  # fmt: skip
    files = [str(tmp_path / f"figure4.{kind}") for kind in ("pdf", "png")]
    figures.loss_weights(rows, files)
    pdf = (tmp_path / "figure4.pdf").read_bytes()
    assert b"/FontFile2" in pdf and (tmp_path / "figure4.png").stat().st_size > 5_000
    with pytest.raises(UserError, match="no sweep of loss weights"):
        figures.loss_weights([r for r in rows if r["condition"] == "t"], files)


def test_representations_are_drawn_and_measured(rng, tmp_path):
    true = rng.normal(size=(2, 40, 5))
    recovered = np.stack([true[0] + 0.01, true[1] + 30])
    arrays = {"recovered": recovered, "true": true, "modalities": np.array(["text", "speech"])}
    overlap = figures.representations(arrays, [str(tmp_path / "figure5.png")])
    assert overlap["text"] > 0.4 and overlap["speech"] == 0
    with pytest.raises(UserError, match=r"figure5\.gif: wanted"):
        figures.representations(arrays, [str(tmp_path / "figure5.gif")])
