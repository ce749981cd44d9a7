"""How the stream reads the samples of a recipe of views: the one place that knows every medium."""

from augment.recipe import AnyViews
from augment.sound.sound_recipe import SoundViews
from pipelines.samples.rows_of_numbers import NumberRows, Series
from pipelines.samples.sound_windows import SoundWindows, shape_of_views


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
