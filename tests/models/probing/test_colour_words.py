"""Words told by colours: what a palette says is found, and what it does not say is not."""

import numpy as np
import pytest

from models.probing.colour_words import ColourWords

SHADES = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.2), "blue": (0.1, 0.2, 0.9)}


def corpus(num: int, seed: int) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    generator = np.random.default_rng(seed)
    names = generator.choice(list(SHADES), num)
    things = generator.choice(["dog", "car", "tree"], num)
    colours = np.array([SHADES[name] for name in names]) + generator.normal(0, 0.05, (num, 3))
    return colours, [(f"a {a} {b}", f"the {b} is {a}") for a, b in zip(names, things, strict=True)]


def test_colours_tell_the_words_that_name_them_and_no_others() -> None:
    model = ColourWords(*corpus(90, 0))
    colours, texts = corpus(60, 1)
    alike = model.of_images(colours) @ model.of_texts([f"a {name}" for name in SHADES]).T
    named = np.array([list(SHADES).index(one[0].split()[1]) for one in texts])
    assert (alike.argmax(1) == named).mean() > 0.95
    things = model.of_images(colours) @ model.of_texts(["a dog", "a car", "a tree"]).T
    thing = np.array([["dog", "car", "tree"].index(one[0].split()[2]) for one in texts])
    assert (things.argmax(1) == thing).mean() < 0.6


def test_the_error_of_images_left_out_is_that_of_fitting_without_them() -> None:
    """So the penalty is the one that a loop would have chosen."""
    colours, texts = corpus(20, 2)
    model = ColourWords(colours, texts)
    x = (colours - colours.mean(0)) / colours.std(0)
    bags = np.stack([model._bag(one) for one in texts])
    errors = {}
    for penalty in (10.0**power for power in range(-3, 4)):
        total = 0.0
        for out in range(20):
            kept = np.arange(20) != out
            held, target = x[kept], bags[kept]
            centred = held - held.mean(0)
            gram = centred.T @ centred + penalty * 20 * np.eye(3)
            weights = np.linalg.solve(gram, centred.T @ (target - target.mean(0)))
            told = (x[out] - held.mean(0)) @ weights + target.mean(0)
            total += np.square(bags[out] - told).sum()
        errors[penalty] = total
    assert model.penalty == pytest.approx(min(errors, key=lambda one: errors[one]))


def test_too_little_to_learn_from_is_refused() -> None:
    colours, texts = corpus(20, 0)
    with pytest.raises(ValueError, match="2 training images are too few"):
        ColourWords(colours[:2], texts[:2])
    with pytest.raises(ValueError, match="no word stands in the captions of two"):
        ColourWords(colours[:3], [("one",), ("two",), ("three",)])


def test_words_that_nobody_learnt_say_nothing() -> None:
    model = ColourWords(*corpus(30, 0))
    alone, empty = model.of_texts(["zebra"]), model.of_texts([""])
    np.testing.assert_allclose(alone, empty)
