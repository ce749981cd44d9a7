"""Texts as samples of a stream: bytes to what they say, and a stretch of its tokens that is drawn
by the sample's key."""

import json
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from augment.column_draws import uniform
from augment.texts.special_tokens import END, PAD, START
from models.texts.tokenizer import word_ids
from pipelines import schema
from pipelines.media.contract import BadSample
from pipelines.media.decoder import Decoder, File
from pipelines.texts.text_files import unquoted
from pipelines.texts.text_places import DEFAULT_COLUMNS, TextPlace

if TYPE_CHECKING:
    from augment.texts.text_views import TextViews

# A token is 3 to 5 characters of most languages, and a word of no language is longer than this.
_MOST_CHARACTERS = 32  # looked at for each token of a view


@dataclass(frozen=True)
class Stretches:
    """What is taken of one text.

    Attributes:
        place: What of its bytes it is.
        positions: Where each view's stretch lies in a longer text, in [0, 1).
    """

    place: TextPlace
    positions: tuple[float, ...]


@dataclass(frozen=True)
class TextTokens:
    """How tokens are taken out of texts.

    Attributes:
        tokenizer: As `models.texts.tokenizer.learn` returned it.
        size: L, tokens of a view.
        windows: For each view, "drawn" or "first".
        seed: The run's.
    """

    tokenizer: str
    size: int
    windows: tuple[str, ...] = ("first",)
    seed: int = 0

    @classmethod
    def of_views(cls, tokenizer: str, views: "TextViews", seed: int) -> "TextTokens":
        """Return what the views of a run are cut from."""
        windows = [group.window for group in views.groups.values() for _ in range(group.count)]
        return cls(tokenizer, views.size, tuple(windows), seed)

    def wanted(self, rows: pa.Table) -> list[Stretches]:
        """Draw where the stretches of each sample lie."""
        places = map(TextPlace.named, rows[schema.MEMBER].to_pylist())
        positions = np.zeros((rows.num_rows, len(self.windows)))
        if "drawn" in self.windows:
            epoch, sample_id = (rows[name].to_numpy() for name in (schema.EPOCH, schema.SAMPLE_ID))
            keys: dict[str, Any] = {"seed": self.seed, "epoch": epoch, "sample_id": sample_id}
            drawn = uniform(len(self.windows), view=0, op="window", **keys).astype(np.float64)
            positions = drawn * [window == "drawn" for window in self.windows]
        return [
            Stretches(place, tuple(row))
            for place, row in zip(places, positions.tolist(), strict=True)
        ]

    def read(self, payload: bytes | File, wanted: Stretches, decoder: Decoder) -> np.ndarray:
        """Turn a text into the tokens of its views, (V, L) int32.

        Raises:
            BadSample: it cannot be used.
        """
        assert isinstance(payload, bytes), "texts are read whole"
        text = text_of(payload, wanted.place)
        return np.stack([self._tokens(text, position) for position in wanted.positions])

    def _tokens(self, text: str, position: float) -> np.ndarray:
        """Take a stretch: start, words, end, padding."""
        most = _MOST_CHARACTERS * self.size
        if len(text) > most:
            first = int(position * (len(text) - most + 1))
            text = text[first : first + most]
        ids = word_ids(self.tokenizer, text)
        room = self.size - 2
        first = int(position * max(1, len(ids) - room + 1))
        ids = [START, *ids[first : first + room], END]
        return np.array(ids + [PAD] * (self.size - len(ids)), np.int32)


def text_of(data: bytes, place: TextPlace) -> str:
    """Return what the bytes of a text say: in Unicode's form NFC, with single spaces.

    Raises:
        BadSample: `encoding`: it is no UTF-8; `field`: no JSON object, or one without the text;
            `empty`: it says nothing.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("encoding", f"no UTF-8 (byte {error.start} of the text)") from None
    if place.form == "object":
        text = _field(text, place.column)
    elif place.form == "row":
        text = unquoted(text)
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if not text:
        raise BadSample("empty", "nothing but blanks")
    return text


def _field(line: str, name: str) -> str:
    """Return a field of the JSON object on a line."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadSample("field", f"no JSON: {str(error)[:80]}") from None
    if not isinstance(found, dict):
        raise BadSample("field", "no JSON object")
    names = (name,) if name else DEFAULT_COLUMNS
    text = next((found[one] for one in names if one in found), None)
    if not isinstance(text, str):
        what = "no field" if text is None else "no text in field"
        raise BadSample("field", f"{what} {' or '.join(names)}")
    return text.encode("utf-8", "replace").decode()  # halves of surrogate pairs
