import numpy as np

from pipelines.curation.balance import at_top, chosen, evenness, quotas, share


def test_a_number_is_shared_out_alike_as_far_as_each_has_enough() -> None:
    assert share(np.array([1, 10, 100, 3]), 20).tolist() == [1, 8, 8, 3]
    assert share(np.array([5, 5]), 100).tolist() == [5, 5]
    assert sorted(share(np.array([100, 100, 100]), 10).tolist()) == [3, 3, 4]


def test_every_level_is_balanced_and_the_total_kept() -> None:
    sizes = np.array([1000, 900, 800, 20, 3, 500])
    parents = (np.array([0, 0, 0, 1, 1, 2]),)
    given = quotas(sizes, parents, 300)
    assert given.sum() == 300 and (given <= sizes).all()
    above = at_top(given, parents)
    assert above[1] == 23 and abs(above[0] - above[2]) <= 1
    assert np.ptp(given[:3]) <= 1
    assert evenness(given) > evenness(sizes)


def test_what_is_chosen_depends_on_the_samples_alone() -> None:
    ids = np.random.default_rng(0).integers(-(2**62), 2**62, 200)
    taken = set(ids[chosen(ids, 40, seed=1)].tolist())
    assert len(taken) == 40
    assert taken == set(ids[::-1][chosen(ids[::-1].copy(), 40, seed=1)].tolist())
    assert taken != set(ids[chosen(ids, 40, seed=2)].tolist())
