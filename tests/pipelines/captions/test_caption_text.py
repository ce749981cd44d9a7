"""Captions as files hold them, and files that hold none."""

import pytest

from pipelines.captions.caption_text import MAX_BYTES, read_captions
from pipelines.media.contract import BadSample


@pytest.mark.parametrize(
    ("data", "name", "captions"),
    [
        (b"A dog runs.\n\n  A  dog\tplays \r\n", "./{stem}.txt", ("A dog runs.", "A dog plays")),
        (b"\xef\xbb\xbfcaf\xc3\xa9", "a.txt", ("caf\u00e9",)),
        ("cafe\u0301".encode(), "a.txt", ("caf\u00e9",)),
        (b'{"caption": "one", "label": 3}', "a.json", ("one",)),
        (b'{"captions": ["one", " ", "two"]}', "a.json", ("one", "two")),
        (b'{"text": ["one", 7]}', "a.json", ("one",)),
    ],
)
def test_texts_are_read_and_cleaned(data: bytes, name: str, captions: tuple[str, ...]) -> None:
    assert read_captions(data, name) == captions


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        (b"caf\xe9", "a.txt", r"a\.txt is no UTF-8 \(byte 3\)"),
        (b" \n\t\n", "a.txt", r"a\.txt is empty"),
        (b"", "a.txt", r"is empty"),
        (b"x" * (MAX_BYTES + 1), "a.txt", r"of more than 1048576 is none"),
        (b"{", "a.json", r"is no JSON"),
        (b"[1]", "a.json", r"no JSON object with captions or caption or"),
        (b'{"label": 1}', "a.json", r"no JSON object with"),
        (b'{"caption": 5}', "a.json", r"is empty"),
        (b'{"caption": ""}', "a.json", r"is empty"),
    ],
)
def test_what_is_no_caption_is_a_bad_sample_with_a_true_word(
    data: bytes, name: str, says: str
) -> None:
    with pytest.raises(BadSample, match=says) as raised:
        read_captions(data, name)
    assert raised.value.reason == "caption"
