import numpy as np
import pytest

from cmarr_jax.data import pooling


@pytest.fixture(scope="module")
def tfds_reader():
    from cmarr_jax.data import tfds_reader  # TensorFlow: not before JAX's libraries look for it

    return tfds_reader


@pytest.fixture(scope="module")
def builder(tiny_pack, tmp_path_factory):
    from cmarr_jax.data import tfds_builder

    return tfds_builder.prepare(tiny_pack.path, str(tmp_path_factory.mktemp("tfds")))


@pytest.mark.parametrize(
    "align, length, statistics", [("pool", 1, "mean_max"), ("interp", 3, "mean")]
)
@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_a_batch_holds_each_utterance_as_it_is_by_itself(
    tfds_reader, tiny_pack, builder, monkeypatch, align, length, statistics, batch_size
):
    monkeypatch.setattr(tfds_reader, "_BATCH_SIZE", batch_size)
    batches = tfds_reader.batches(builder, align=align, length=length, statistics=statistics)
    seen = []
    for batch in batches.as_numpy_iterator():
        assert len(batch["index"]) == min(batch_size, 60 - len(seen))
        seen += list(batch["index"])
        for m in tiny_pack.modalities:
            for k, i in enumerate(batch["index"]):
                sequence = np.asarray(tiny_pack.sequence(m, i))
                want = pooling.fix_length(sequence, length, align, statistics)
                np.testing.assert_allclose(batch[f"modality_{m}"][k], want, atol=1e-6)
                assert batch[f"length_{m}"][k] == len(sequence)
    assert sorted(seen) == list(range(60))


def test_a_batch_takes_no_more_bytes_than_it_may(tfds_reader, builder, monkeypatch):
    split = builder.info.splits["corpus"]
    monkeypatch.setattr(tfds_reader, "_BATCH_BYTES", 5 * split.num_bytes // 60 + 1)
    batches = tfds_reader.batches(builder, align="pool", length=2)
    assert {len(b["index"]) for b in batches.as_numpy_iterator()} == {5}
