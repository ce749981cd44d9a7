"""Real sentences as tokens, without a tokenizer, for tests of every method."""

import codecs
import zlib

import numpy as np

from augment.texts.special_tokens import END, NUM_SPECIAL, PAD, START

VOCAB = 512


def zen() -> list[str]:
    """Return the twenty lines of the Zen of Python."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        import this
    return [line for line in codecs.decode(this.s, "rot13").splitlines() if line]


def tokens_of(lines: list[str], length: int) -> np.ndarray:
    """Number the words of texts by their spelling: (N, length) int32, as the stream gives them."""
    rows = np.full((len(lines), length), PAD, np.int32)
    for row, line in zip(rows, lines, strict=True):
        words = line.lower().split()[: length - 2]
        ids = [NUM_SPECIAL + zlib.crc32(word.encode()) % (VOCAB - NUM_SPECIAL) for word in words]
        row[: len(ids) + 2] = [START, *ids, END]
    return rows
