"""Words told by colours alone: what retrieval between images and captions must rise above.

A text is a bag of words, weighted by how rare they are; the weights of the words that an image's
captions may hold are predicted from the palette of the image, by ridge regression.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_FEWEST = 2  # images whose captions hold a word that counts
_MOST_WORDS = 4000
_PENALTIES = tuple(10.0**power for power in range(-3, 4))
Floats = NDArray[np.float64]


class ColourWords:
    """A regression from colours to words.

    Args:
        colours: Statistics of N training images, (N, D).
        texts: Their captions, one or several each.

    Attributes:
        words: That are told, the most frequent first.
        penalty: Of the ridge, of several the one with the least error on images left out one by
            one; in units of a feature's variance.

    Raises:
        ValueError: fewer than three images, or no word that two of them share.
    """

    words: tuple[str, ...]
    penalty: float
    _weights: Floats

    def __init__(self, colours: NDArray[np.floating], texts: Sequence[Sequence[str]]) -> None:
        if len(colours) < 3:
            raise ValueError(f"{len(colours)} training images are too few: give three or more")
        held = [set().union(*map(_words_of, each)) for each in texts]
        counts = Counter(word for words in held for word in words)
        frequent = [word for word, count in counts.most_common(_MOST_WORDS) if count >= _FEWEST]
        if not frequent:
            raise ValueError("no word stands in the captions of two training images")
        self.words = tuple(frequent)
        self._index = {word: place for place, word in enumerate(frequent)}
        self._rarity = np.log(len(held) / np.array([counts[word] for word in frequent])) + 1
        wide = colours.astype(np.float64)
        self._mean = wide.mean(0)
        self._scale = wide.std(0)
        self._scale[self._scale == 0] = 1
        bags = np.stack([self._bag(each) for each in texts])
        self._mean_bag = bags.mean(0)
        self._learn(self._standardised(wide), bags - self._mean_bag)

    def of_images(self, colours: NDArray[np.floating]) -> Floats:
        """Tell the words of images (N, D) from their colours: (N, V) of length 1."""
        told: Floats = self._standardised(colours.astype(np.float64)) @ self._weights
        return _unit(told)

    def of_texts(self, texts: Sequence[str]) -> Floats:
        """Weigh the words of texts against those of the mean: (M, V) of length 1."""
        return _unit(np.stack([self._bag([text]) for text in texts]) - self._mean_bag)

    def _bag(self, texts: Sequence[str]) -> Floats:
        """Sum the weights of the words of an image's captions, to length 1 where there are any."""
        bag = np.zeros(len(self.words))
        for word in (word for text in texts for word in _words_of(text)):
            if word in self._index:
                bag[self._index[word]] += self._rarity[self._index[word]]
        length = float(np.linalg.norm(bag))
        return bag / length if length else bag

    def _standardised(self, colours: Floats) -> Floats:
        scaled: Floats = (colours - self._mean) / self._scale
        return scaled

    def _learn(self, x: Floats, y: Floats) -> None:
        """Fit by the singular values of x, with the penalty that leaves the least error on samples
        left out one by one, which a ridge gives in closed form."""
        left, values, right = np.linalg.svd(x, full_matrices=False)
        target = left.T @ y
        errors = []
        for penalty in _PENALTIES:
            shrunk = values**2 / (values**2 + penalty * len(x))
            leverage = np.square(left) @ shrunk + 1 / len(x)
            residual = (y - left @ (shrunk[:, None] * target)) / (1 - leverage)[:, None]
            errors.append(np.square(residual).sum())
        self.penalty = _PENALTIES[int(np.argmin(errors))]
        shrink = values / (values**2 + self.penalty * len(x))
        self._weights = right.T @ (shrink[:, None] * target)


def _words_of(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))


def _unit(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Floats = rows / np.where(length > 0, length, 1)
    return scaled
