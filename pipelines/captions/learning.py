"""The tokens of a run: learnt once from its own captions, and kept beside it."""

from collections.abc import Iterator
from itertools import chain, islice

import pyarrow as pa

from models.texts.tokenizer import learn
from pipelines.captions.caption_table import CaptionTable
from pipelines.captions.drawn_captions import read_told
from pipelines.media.contract import BadSample, Limits
from pipelines.pairs.files_beside import FilesBeside
from pipelines.storage import uris
from pipelines.stream.plan import Plan
from pipelines.stream.stage_times import Stopwatch

LEARNT_FROM = 50_000  # samples, the first of the run's order: they lie all over the corpus


def kept_tokenizer(
    uri: str,
    plan: Plan,
    place: FilesBeside | CaptionTable,
    limits: Limits,
    vocab_size: int,
) -> str:
    """Read the tokenizer of a run; learn and keep it where there is none yet.

    Args:
        uri: Where it is kept.
        plan: The run's order of samples.
        place: Where captions are.
        limits: What a file may cost.
        vocab_size: Tokens at most.

    Raises:
        ValueError: none of the first samples has a caption, with the first one's reason; or
            `tokenizers` is missing, with the remedy.
    """
    if uris.exists(uri):
        return uris.read_bytes(uri).decode()
    count = min(LEARNT_FROM, plan.manifest.num_rows)
    problems = list[BadSample]()
    texts = _texts(plan.rows(0, count), place, limits, problems)
    first = list(islice(texts, 1))
    if not first:
        raise ValueError(f"none of the first {count} samples has a caption ({problems[0]})")
    tokenizer = learn(chain(first, texts), vocab_size)
    uris.write_bytes(uri, tokenizer.encode())
    return tokenizer


def _texts(
    rows: Iterator[pa.Table],
    place: FilesBeside | CaptionTable,
    limits: Limits,
    problems: list[BadSample],
) -> Iterator[str]:
    for told in read_told(place, rows, limits, Stopwatch()):
        if isinstance(told, BadSample):
            problems[:] = problems or [told]
        else:
            yield from told
