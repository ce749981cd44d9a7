"""What methods of sounds share."""

from typing import ClassVar

from torch import Tensor

from augment.recipe import AnyViews
from augment.sound.log_mel import mel_picture
from augment.sound.sound_recipe import SoundGroup, SoundViews
from models.method import Batch, Media, Method, ViewGroups

WINDOWS = "windows"
PICTURE_PX = 112


def plain_windows(size: int) -> SoundViews:
    """Make one window as it is."""
    return SoundViews(size=size, groups={WINDOWS: SoundGroup()})


class SoundMethod(Method):
    """A method whose sample is a window of a sound."""

    small_px: ClassVar[int] = 4_000
    media: ClassVar[Media] = "audio"
    views_kind: ClassVar[type[AnyViews]] = SoundViews
    view_groups: ClassVar[ViewGroups] = {WINDOWS: 1}

    @staticmethod
    def default_views(size: int) -> SoundViews:
        """Make one window, unchanged."""
        return plain_windows(size)

    @property
    def sound_views(self) -> SoundViews:
        """Return the views."""
        assert isinstance(self.views, SoundViews)
        return self.views

    def heard(self, batch: Batch) -> Tensor:
        """Draw a batch's windows as log-mel spectra, (B, 3, S, S) RGB in [0, 1]."""
        windows = batch["views"][WINDOWS][0] * self.sound_views.std
        return mel_picture(windows, self.sound_views.rate, PICTURE_PX)
