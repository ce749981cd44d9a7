"""How the stream reads the samples of a recipe of views: the one place that knows every medium."""

from augment.recipe import AnyViews
from augment.sound.sound_recipe import SoundViews
from augment.texts.text_views import TextViews
from models.artifact import Artifact
from pipelines import schema
from pipelines.samples.rows_of_numbers import NumberRows, Series
from pipelines.samples.sound_windows import SoundWindows, shape_for_embedding, shape_of_views
from pipelines.texts.text_tokens import TextTokens


def series_of(
    views: AnyViews, seed: int, tokenizer: str | None = None
) -> tuple[Series, NumberRows] | None:
    """Return how samples that are rows of numbers are read, and what they are in a block; None of
    pictures.

    Args:
        views: The recipe.
        seed: Of the draws.
        tokenizer: Of texts, as `models.texts.tokenizer.learn` returned it.
    """
    if isinstance(views, SoundViews):
        return SoundWindows.of_views(views, seed), shape_of_views(views)
    if isinstance(views, TextViews):
        assert tokenizer is not None, "texts are read by a tokenizer"
        counts = {name: group.count for name, group in views.groups.items()}
        series = TextTokens.of_views(tokenizer, views, seed)
        return series, NumberRows(counts, views.size, "int32")
    return None


def seen_by(artifact: Artifact, *, times: bool = False) -> tuple[Series, NumberRows] | None:
    """Return how an encoder's samples are read where they are rows of numbers, and what they are in
    a block; None where it sees pictures.

    Args:
        artifact: The encoder.
        times: Whether columns say when the sample was on display, as those of videos do.
    """
    if (texts := artifact.of_texts) is not None:
        size = texts.image_size
        shape = NumberRows({schema.IMAGE: 1}, size, "int32", single=True, times=times)
        return TextTokens(texts.tokenizer, size), shape
    if (sounds := artifact.of_sounds) is None:
        return None
    windows = SoundWindows(sounds.rate, sounds.image_size)
    return windows, shape_for_embedding(sounds.image_size, times=times)
