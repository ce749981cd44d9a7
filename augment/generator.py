"""From decoded images to the views a method eats: geometry on the CPU, colours wherever they are
placed."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from augment.captions import captions
from augment.execution.cutter import Cutter
from augment.execution.photometric import apply_fused
from augment.execution.photometric_cpu import apply_on_cpu
from augment.picture import Picture
from augment.recipe import AnyViews, Views
from augment.sample import row_keys, sample_crops, sample_photometric
from augment.sound.log_mel import mel_picture
from augment.sound.sound_recipe import SoundViews
from augment.sound.sound_views import SoundViewGenerator
from augment.texts.text_views import TextViewGenerator, TextViews, token_pictures


@cache
def _compiled() -> Callable[..., Tensor]:
    """Compile the fused changes, each shape for itself; here, as generators travel and what was
    compiled cannot."""
    compiled: Callable[..., Tensor] = torch.compile(apply_fused, fullgraph=True, dynamic=False)
    return compiled


class Generator(Protocol):
    """Turns what the stream holds of a batch into the views a method eats, whatever the medium."""

    @property
    def views(self) -> AnyViews:
        """Return the recipe."""

    def __call__(
        self,
        rows: dict[str, Tensor],
        epoch: Tensor,
        sample_id: Tensor,
        *,
        photometric_done: bool = False,
    ) -> dict[str, Tensor]:
        """Turn columns (B, V, ...) by group into views (V, B, ...)."""


def generator_of(views: AnyViews, seed: int, dtype: torch.dtype = torch.float32) -> Generator:
    """Make the generator of a recipe.

    Args:
        views: The recipe, of any medium.
        seed: The run's seed.
        dtype: Of images, as `ViewGenerator` takes it.
    """
    if isinstance(views, SoundViews):
        return SoundViewGenerator(views, seed)
    if isinstance(views, TextViews):
        return TextViewGenerator(views, seed)
    assert isinstance(views, Views)
    return ViewGenerator(views, seed, dtype)


def pictures_of(recipe: AnyViews, views: Tensor, size: int) -> Tensor:
    """Draw views of a medium that is no picture, for people.

    Args:
        recipe: Of the views.
        views: (B, ...), as its generator made them.
        size: S, side of the pictures, px.

    Returns:
        (B, 3, S, S) uint8 RGB.
    """
    if isinstance(recipe, TextViews):
        return token_pictures(views, size)
    assert isinstance(recipe, SoundViews)
    pictures = mel_picture(views * recipe.std, recipe.rate, size)
    return (pictures * 255).round().to(torch.uint8)


class ViewGenerator:
    """Makes the views of a recipe; a sample's pixels come out the same in whatever batch and place
    it is processed.

    Args:
        views: The recipe.
        seed: The run's seed.
        dtype: float32, or bfloat16 where the encoder takes it: half the memory traffic of the
            colour changes. Views without any are float32 all the same: methods that predict pixels
            have them as their target.
    """

    def __init__(self, views: Views, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self.views = views
        self.seed = seed
        self.dtype = dtype

    def make_crops(
        self, images: Sequence[np.ndarray], epoch: Tensor, sample_id: Tensor
    ) -> dict[str, np.ndarray]:
        """Cut, resize and flip all views of decoded images; colours are left alone.

        Args:
            images: B arrays (H, W, 3) uint8, contiguous, each of its own size; or B clips (T, H, W,
                3), whose frames are cut alike.
            epoch: (B,) int64, on the CPU.
            sample_id: (B,) int64, on the CPU.

        Returns:
            (B, V, 3, S, S) uint8 for each group of the recipe; (B, V, T, 3, S, S) of clips.
        """
        frames = images[0].shape[:-3] if images else ()  # (T,) of clips
        crops = {}
        for name, group in self.views.groups.items():
            size = self.views.group_size(name)
            crops[name] = np.empty((len(images), group.count, *frames, 3, size, size), np.uint8)
        keys = (epoch.numpy(), sample_id.numpy())
        cutter = Cutter(self.views, self.seed, crops, *keys, photometric=False)
        for row, image in enumerate(images):
            cutter.fill(row, Picture.whole(image))
        return crops

    def photometric(
        self, crops: dict[str, Tensor], epoch: Tensor, sample_id: Tensor
    ) -> dict[str, Tensor]:
        """Change the colours and round to whole grey levels, for the decode placement.

        Args:
            crops: (B, V, 3, S, S) uint8 by group, (B, V, T, 3, S, S) of clips.
            epoch: (B,) int64, on crops' device.
            sample_id: (B,) int64, on crops' device.

        Returns:
            Same shapes and dtype; pass them to the generator with `photometric_done=True`.
        """
        return {
            name: self._change(name, x, epoch, sample_id, torch.uint8) for name, x in crops.items()
        }

    def __call__(
        self,
        rows: dict[str, Tensor],
        epoch: Tensor,
        sample_id: Tensor,
        *,
        photometric_done: bool = False,
    ) -> dict[str, Tensor]:
        """Turn crops into a method's input: change the colours, unless that is done, and normalise.

        Args:
            rows: Crops (B, V, 3, S, S) uint8 by group, (B, V, T, 3, S, S) of clips.
            epoch: (B,) int64, on their device.
            sample_id: (B,) int64, on their device.
            photometric_done: The crops come from `photometric`.

        Returns:
            (V, B, 3, S, S) by group, (V, B, T, 3, S, S) of clips: contiguous, on their device, the
            generator's type (float32 where the group has no changes).
        """
        views = {}
        for name, batch in rows.items():
            changed = bool(self.views.groups[name].changes())
            if changed and not photometric_done:
                x = self._change(name, batch, epoch, sample_id, self.dtype)
            else:
                x = batch.to(self.dtype if changed else torch.float32) / 255
            views[name] = self._normalise(x.transpose(0, 1).contiguous())  # (V, B, 3, S, S)
        return views

    def describe(
        self, name: str, epoch: Tensor, sample_id: Tensor, image_height: Tensor, image_width: Tensor
    ) -> list[list[str]]:
        """Say what is drawn for the views of a group, for people; see `augment.captions`.

        Args:
            name: The group.
            epoch: (B,) int64, on the CPU.
            sample_id: (B,) int64, on the CPU.
            image_height: (B,) int64, px of the decoded images.
            image_width: (B,) int64, px.

        Returns:
            B lists of V captions.
        """
        group = self.views.groups[name]
        epoch, sample_id, view = row_keys(self.views, name, epoch, sample_id)
        keys: dict[str, Any] = {
            "seed": self.seed,
            "epoch": epoch,
            "sample_id": sample_id,
            "view": view,
        }
        height, width = (
            size.repeat_interleave(group.count) for size in (image_height, image_width)
        )
        crops = sample_crops(group, **keys, image_height=height, image_width=width)
        said = captions(group, crops, sample_photometric(group, **keys))
        return [said[start : start + group.count] for start in range(0, len(said), group.count)]

    def _change(
        self, name: str, crops: Tensor, epoch: Tensor, sample_id: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Draw and apply a group's changes to its crops, (B, V, [T,] 3, S, S): fused on a device,
        one by one here."""
        group = self.views.groups[name]
        if not group.changes():
            return crops
        epoch, sample_id, view = row_keys(self.views, name, epoch, sample_id)
        draws = sample_photometric(
            group, seed=self.seed, epoch=epoch, sample_id=sample_id, view=view
        )
        rows = crops.flatten(0, 1)  # (B * V, [T,] 3, S, S)
        if rows.device.type == "cpu":
            out = torch.empty(
                rows.shape, dtype=torch.uint8 if dtype == torch.uint8 else torch.float32
            )
            apply_on_cpu(rows.numpy(), group, draws, out.numpy())
            return out.to(dtype).reshape(crops.shape)
        change = _compiled() if self.views.compile else apply_fused
        x = change(rows.to(self.dtype) / 255, group, draws)
        if dtype == torch.uint8:
            x = x.float().mul_(255).round_()
        return x.to(dtype).reshape(crops.shape)

    def _normalise(self, x: Tensor) -> Tensor:
        """Subtract the mean and divide by the deviation of each channel, in place."""
        # Python scalars, channel by channel: a tensor of constants would be a copy to the device,
        # which waits for it.
        for channel, (mean, std) in enumerate(zip(self.views.mean, self.views.std, strict=True)):
            x[..., channel, :, :].sub_(mean).div_(std)
        return x
