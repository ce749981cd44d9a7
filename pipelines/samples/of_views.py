"""How the stream reads the samples of a recipe of views: the one place that knows every medium."""

from augment.recipe import AnyViews
from augment.sound.sound_recipe import SoundViews
from models.artifact import Artifact
from pipelines.samples.rows_of_numbers import NumberRows, Series
from pipelines.samples.sound_windows import SoundWindows, shape_for_embedding, shape_of_views


def series_of(views: AnyViews, seed: int) -> tuple[Series, NumberRows] | None:
    """Return how samples that are rows of numbers are read, and what they are in a block; None of
    pictures.

    Args:
        views: The recipe.
        seed: Of the draws.
    """
    if isinstance(views, SoundViews):
        return SoundWindows.of_views(views, seed), shape_of_views(views)
    return None


def seen_by(artifact: Artifact, *, times: bool = False) -> tuple[Series, NumberRows] | None:
    """Return how an encoder's samples are read where they are rows of numbers, and what they are in
    a block; None where it sees pictures.

    Args:
        artifact: The encoder.
        times: Whether columns say when the sample was on display, as those of videos do.
    """
    if (sounds := artifact.of_sounds) is None:
        return None
    windows = SoundWindows(sounds.rate, sounds.image_size)
    return windows, shape_for_embedding(sounds.image_size, times=times)
