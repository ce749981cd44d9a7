"""The tokens of texts: learnt once from a run's own, the first of its order."""

from collections.abc import Iterator
from itertools import chain, islice, tee

import pyarrow as pa

from models.texts.tokenizer import learn
from pipelines import schema
from pipelines.media.contract import BadSample, Limits
from pipelines.stream.payload import payloads
from pipelines.stream.plan import Plan
from pipelines.stream.stage_times import Stopwatch
from pipelines.texts.text_places import TextPlace
from pipelines.texts.text_tokens import text_of

LEARNT_FROM = 50_000  # samples: they lie all over the corpus


def learnt_tokens(plan: Plan, limits: Limits, vocab_size: int) -> str:
    """Learn which bytes to join, from the first texts of a plan.

    Args:
        plan: The run's order of samples.
        limits: What a text may cost.
        vocab_size: Tokens at most.

    Returns:
        The tokenizer, as `models.texts.tokenizer.learn` returns it.

    Raises:
        ValueError: none of the first samples is a text, with the first one's reason; or
            `tokenizers` is missing, with the remedy.
    """
    count = min(LEARNT_FROM, plan.manifest.num_rows)
    problems = list[BadSample]()
    texts = _texts(plan.rows(0, count), limits, problems)
    first = list(islice(texts, 1))
    if not first:
        raise ValueError(f"none of the first {count} samples is a text ({problems[0]})")
    return learn(chain(first, texts), vocab_size)


def _texts(blocks: Iterator[pa.Table], limits: Limits, problems: list[BadSample]) -> Iterator[str]:
    """Yield what the texts of manifest rows say, and keep the first problem."""
    ours, theirs = tee(blocks)
    fetched = payloads(theirs, limits, Stopwatch())
    for rows in ours:
        for member in rows[schema.MEMBER].to_pylist():
            data = next(fetched)
            try:
                if isinstance(data, BadSample):
                    raise data
                assert isinstance(data, bytes), "texts are read whole"
                yield text_of(data, TextPlace.named(member))
            except BadSample as problem:
                problems[:] = problems or [problem]
