"""View recipes that several methods share; every other one lies in its method's file."""

from augment.ops import ColorJitter, GaussianBlur, Greyscale, Solarize
from augment.recipe import CropGroup, Views

PLAIN_VIEW = "global_crops"
"""The group of `plain_views`."""
SMALL_IMAGE_PX = 64  # at and below this side, recipes have no blur and weaker colour changes


def simclr_views(size: int) -> Views:
    """Make SimCLR's two views (arXiv:2002.05709, appendix A), for small images those of B.9.

    Small images get half the strength and no blur.

    Args:
        size: Side of the views, px.
    """
    weak = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    jitter = weak if size <= SMALL_IMAGE_PX else ColorJitter()
    group = CropGroup(count=2, color_jitter=jitter, greyscale=Greyscale(), blur=blur(size))
    return Views(size=size, groups={"global_crops": group})


def moco_v2_views(size: int) -> Views:
    """Make MoCo v2's two views (arXiv:2003.04297, section 3): weaker hue and, above 64 px, blur.

    Args:
        size: Side of the views, px.
    """
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    group = CropGroup(
        count=2, scale=(0.2, 1.0), color_jitter=jitter, greyscale=Greyscale(), blur=blur(size)
    )
    return Views(size=size, groups={"global_crops": group})


def byol_views(size: int) -> Views:
    """Make BYOL's two unlike views (arXiv:2006.07733, appendix B), each in a group of its own.

    `global_crops_1` is always blurred and never solarised, `global_crops_2` is rarely blurred and
    sometimes solarised; small images are never blurred.

    Args:
        size: Side of the views, px.
    """
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    first = CropGroup(color_jitter=jitter, greyscale=Greyscale(), blur=blur(size, p=1.0))
    second = first.model_copy(update={"blur": blur(size, p=0.1), "solarize": Solarize(p=0.2)})
    return Views(size=size, groups={"global_crops_1": first, "global_crops_2": second})


def plain_views(size: int, scale: tuple[float, float], flip: float = 0.5) -> Views:
    """Make one crop of each image in its own colours.

    Args:
        size: Side of the views, px.
        scale: Least and greatest share of the image in a crop.
        flip: Probability that a crop is mirrored.
    """
    return Views(size=size, groups={PLAIN_VIEW: CropGroup(scale=scale, flip=flip)})


def blur(size: int, p: float = 0.5) -> GaussianBlur | None:
    """Make the blur of views of this side; small images have none.

    Args:
        size: Side of the views, px.
        p: Probability that a view is blurred.
    """
    return None if size <= SMALL_IMAGE_PX else GaussianBlur(p=p)


def local_size(size: int) -> int:
    """Return the side of multi-crop's small views: 96 for 224, a multiple of 8 so that patches fit.

    Args:
        size: Side of the large views, px.
    """
    return max(8, round(size * 96 / 224 / 8) * 8)
