import numpy as np

from cmarr_jax.results import mistakes
from cmarr_jax.results.folder import Predictions


def test_the_worst_come_first_judged_by_the_mean_of_the_seeds(rng):
    num, seeds = 30, 3
    labels = rng.integers(0, 4, num)
    posteriors = rng.dirichlet(np.ones(4), size=(2, seeds, num))  # two conditions
    grid = np.meshgrid(range(2), range(seeds), range(num), indexing="ij")
    condition, run, row = (x.ravel() for x in grid)
    ids = np.array([f"u{i:02d}" for i in range(num)])[row]
    shuffle = rng.permutation(len(row))
    posteriors_of = posteriors.reshape(-1, 4)
    everything = Predictions(ids, run, condition, labels[row], posteriors_of, ids, ids)
    shuffled = Predictions(*(column[shuffle] for column in everything))
    found = mistakes.most_confident(shuffled, 1, limit=5)

    naive = []
    for i in range(num):
        mean = posteriors[1, :, i].mean(axis=0)
        guess = int(mean.argmax())
        if guess != labels[i]:
            agree = sum(int(p.argmax()) == guess for p in posteriors[1, :, i])
            naive.append((-mean[guess], f"u{i:02d}", labels[i], guess, mean[labels[i]], agree))
    naive.sort()
    assert len(found) == 5
    for mine, (probability, id, label, guess, of_label, agree) in zip(found, naive, strict=False):
        assert (mine.id, mine.label, mine.predicted) == (id, label, guess)
        assert (mine.agree, mine.seeds) == (agree, seeds)
        np.testing.assert_allclose((mine.probability, mine.of_label), (-probability, of_label))
