"""What methods of texts share."""

from typing import ClassVar

from torch import Tensor

from augment.recipe import AnyViews
from augment.texts.text_views import TEXT, TextViews, text_views
from models.method import Batch, Media, Method, ViewGroups


class TextMethod(Method):
    """An objective around an encoder of texts, which eats one view of each."""

    media: ClassVar[Media] = "text"
    views_kind: ClassVar[type[AnyViews]] = TextViews
    small_px: ClassVar[int] = 16
    view_groups: ClassVar[ViewGroups] = {TEXT: 1}

    @staticmethod
    def default_views(size: int) -> AnyViews:
        """Make views of `size` tokens, drawn out of longer texts."""
        return text_views(size)

    @staticmethod
    def texts(batch: Batch) -> Tensor:
        """Return the tokens of a batch's texts, (B, L) int64."""
        return batch["views"][TEXT][0].long()
