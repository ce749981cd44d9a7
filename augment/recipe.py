"""What a view is: typed recipes of crops and colour changes, and the recipes of the papers."""

from typing import Literal

from pydantic import Field

from augment.frozen import Frozen
from augment.ops import (
    Affine,
    ChannelDrop,
    ColorJitter,
    Cutout,
    FractionRange,
    GaussianBlur,
    GaussianNoise,
    Greyscale,
    Positive,
    PositiveRange,
    Probability,
    QuarterTurns,
    Rotate,
    Sobel,
    Solarize,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Placement = Literal["auto", "worker", "actor", "decode"]
SMALL_IMAGE_PX = 64  # at and below this side the recipes drop the blur and halve the colour changes


class CropGroup(Frozen):
    """Views drawn alike: a random resized crop, a flip, then the changes present, in the order of the fields."""

    count: int = Field(default=1, ge=1, description="views of this kind per image")
    size: int | None = Field(
        default=None, ge=8, description="side of the views, px; null: the side of all views"
    )
    scale: FractionRange = Field(
        default=(0.08, 1.0), description="range of the crop's share of the image's area"
    )
    ratio: PositiveRange = Field(
        default=(3 / 4, 4 / 3), description="range of the crop's width / height, log-uniform"
    )
    flip: Probability = Field(
        default=0.5, description="probability of a mirror image, left to right"
    )
    quarter_turns: QuarterTurns | None = Field(
        default=None, description="turns by 90 degrees; null: none"
    )
    rotate: Rotate | None = Field(default=None, description="rotation by any angle; null: none")
    affine: Affine | None = Field(default=None, description="affine map; null: none")
    color_jitter: ColorJitter | None = Field(
        default=None, description="change of colour; null: none"
    )
    greyscale: Greyscale | None = Field(default=None, description="removal of colour; null: none")
    blur: GaussianBlur | None = Field(default=None, description="Gaussian blur; null: none")
    solarize: Solarize | None = Field(
        default=None, description="inversion of bright values; null: none"
    )
    channel_drop: ChannelDrop | None = Field(
        default=None, description="colour channels set to zero; null: none"
    )
    noise: GaussianNoise | None = Field(default=None, description="Gaussian noise; null: none")
    cutout: Cutout | None = Field(default=None, description="a grey box; null: none")
    sobel: Sobel | None = Field(default=None, description="edges instead of colours; null: none")

    def changes(self) -> list[str]:
        """Fields of the changes present, in the order of their application."""
        return [name for name in type(self).model_fields if isinstance(getattr(self, name), Frozen)]


class Views(Frozen):
    """All views of one image: group after group in the order given, which also numbers the views."""

    size: int = Field(
        default=224, ge=8, description="side of the views, px, where a group does not set its own"
    )
    placement: Placement = Field(
        default="auto",
        description="where colours change: the training worker's device, the decode task, or a pool of actors; "
        "auto: actor with spare GPUs, else worker, decode without GPUs",
    )
    compile: bool = Field(
        default=False,
        description="change colours on GPUs with torch.compile, four times as fast there; needs a C compiler on their "
        "nodes and half a minute at the start",
    )
    mean: tuple[float, float, float] = Field(
        default=IMAGENET_MEAN, description="subtracted from RGB in [0, 1]"
    )
    std: tuple[Positive, Positive, Positive] = Field(
        default=IMAGENET_STD, description="divides RGB after the mean is taken off"
    )
    groups: dict[str, CropGroup] = Field(
        default_factory=lambda: {"global_crops": CropGroup()},
        min_length=1,
        description="kinds of views by name",
    )

    @property
    def num_views(self) -> int:
        """Views per image, of all groups together."""
        return sum(group.count for group in self.groups.values())

    def group_size(self, name: str) -> int:
        """Side of the views of a group, px."""
        return self.groups[name].size or self.size

    def first_view(self, name: str) -> int:
        """Index of the group's first view among all views of an image; keys its random draws."""
        names = list(self.groups)
        return sum(self.groups[earlier].count for earlier in names[: names.index(name)])


def simclr_views(size: int) -> Views:
    """Make SimCLR's two views (arXiv:2002.05709, appendix A; small images: B.9, half the strength and no blur).

    Args:
        size: Side of the views, px.
    """
    weak = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    jitter = weak if size <= SMALL_IMAGE_PX else ColorJitter()
    group = CropGroup(count=2, color_jitter=jitter, greyscale=Greyscale(), blur=_blur(size))
    return Views(size=size, groups={"global_crops": group})


def mae_views(size: int) -> Views:
    """Make the single crop and flip of masked autoencoders (arXiv:2111.06377, appendix A.1), colours untouched.

    Args:
        size: Side of the view, px.
    """
    return Views(size=size, groups={"global_crops": CropGroup(scale=(0.2, 1.0))})


def moco_v1_views(size: int) -> Views:
    """Make MoCo v1's two views (arXiv:1911.05722, section 3.3): strong hue, no blur; the same for small images.

    The authors turn images grey before the jitter; here, as in every recipe, after it.

    Args:
        size: Side of the views, px.
    """
    jitter = ColorJitter(p=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)
    group = CropGroup(count=2, scale=(0.2, 1.0), color_jitter=jitter, greyscale=Greyscale())
    return Views(size=size, groups={"global_crops": group})


def instance_discrimination_views(size: int) -> Views:
    """Make instance discrimination's single view (arXiv:1805.01978, the authors' code), which MoCo v1 took over.

    Args:
        size: Side of the view, px.
    """
    (group,) = moco_v1_views(size).groups.values()
    return Views(size=size, groups={"global_crops": group.model_copy(update={"count": 1})})


def deepcluster_views(size: int) -> Views:
    """Make DeepCluster's single crop and flip (arXiv:1807.05520, section 3.3), colours untouched.

    The paper also turns images into edges, which `greyscale` and `sobel` with `p=1` do.

    Args:
        size: Side of the view, px.
    """
    return Views(size=size, groups={"global_crops": CropGroup()})


def exemplar_views(size: int) -> Views:
    """Make exemplar networks' distorted patches (arXiv:1406.6909, section 2.1): moved, zoomed, turned, and recoloured.

    The paper cuts its patch out once and moves it by a fifth of its side; here a crop of at least a quarter of the
    image is drawn anew. Its contrasts along principal components and of saturation are the jitter's.

    Args:
        size: Side of the views, px.
    """
    affine = Affine(p=1.0, degrees=20.0, translate=0.2, scale=(0.7, 1.4), shear=0.0)
    jitter = ColorJitter(p=1.0, brightness=0.4, contrast=0.5, saturation=0.5, hue=0.1)
    group = CropGroup(count=2, scale=(0.25, 1.0), flip=0.0, affine=affine, color_jitter=jitter)
    return Views(size=size, groups={"global_crops": group})


def moco_v2_views(size: int) -> Views:
    """Make MoCo v2's two views (arXiv:2003.04297, section 3): weaker hue and, above 64 px, blur.

    Args:
        size: Side of the views, px.
    """
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    group = CropGroup(
        count=2, scale=(0.2, 1.0), color_jitter=jitter, greyscale=Greyscale(), blur=_blur(size)
    )
    return Views(size=size, groups={"global_crops": group})


def byol_views(size: int) -> Views:
    """Make BYOL's two unlike views (arXiv:2006.07733, appendix B), one each in `global_crops_1` and `global_crops_2`.

    The first is always blurred and never solarised, the second rarely blurred and sometimes solarised; small images are
    never blurred.

    Args:
        size: Side of the views, px.
    """
    first, second = _unlike(size, scale=(0.08, 1.0))
    return Views(size=size, groups={"global_crops_1": first, "global_crops_2": second})


def dino_views(size: int) -> Views:
    """Make DINO's views (arXiv:2104.14294, section 3.2): BYOL's two, cut large, and eight small ones, `local_crops`.

    Args:
        size: Side of the two large views, px; the small ones have 3/7 of it (96 for 224), rounded to a multiple of 8.
    """
    first, second = _unlike(size, scale=(0.4, 1.0))
    changes = {
        "color_jitter": first.color_jitter,
        "greyscale": first.greyscale,
        "blur": _blur(size),
    }
    local = CropGroup(count=8, size=_local_size(size), scale=(0.05, 0.4), **changes)
    return Views(
        size=size, groups={"global_crops_1": first, "global_crops_2": second, "local_crops": local}
    )


def swav_views(size: int) -> Views:
    """Make SwAV's views (arXiv:2006.09882, appendix A): two large ones and six small ones, `local_crops`.

    Colours as in SimCLR.

    Args:
        size: Side of the large views, px; the small ones have 3/7 of it (96 for 224), rounded to a multiple of 8.
    """
    (colours,) = simclr_views(size).groups.values()
    large = colours.model_copy(update={"scale": (0.14, 1.0)})
    small = colours.model_copy(
        update={"count": 6, "size": _local_size(size), "scale": (0.05, 0.14)}
    )
    return Views(size=size, groups={"global_crops": large, "local_crops": small})


def cpc_views(size: int) -> Views:
    """Make CPC's one crop (arXiv:1807.03748, section 3.2): 256 of 300 px, mirrored at random, without colour.

    Small images, which are not larger than the view, are cut down to as little as that share, and keep their colours.

    Args:
        size: Side of the view, px.
    """
    share = (256 / 300) ** 2
    grey = None if size <= SMALL_IMAGE_PX else Greyscale(p=1.0)
    group = CropGroup(scale=(share, 1.0 if size <= SMALL_IMAGE_PX else share), greyscale=grey)
    return Views(size=size, groups={"global_crops": group})


def cpc_v2_views(size: int) -> Views:
    """Make CPC v2's one crop (arXiv:1905.09272, appendix A.1): CPC's, with colours changed and seldom removed.

    Args:
        size: Side of the view, px.
    """
    (crop,) = cpc_views(size).groups.values()
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    changed = crop.model_copy(update={"color_jitter": jitter, "greyscale": Greyscale(p=0.25)})
    return Views(size=size, groups={"global_crops": changed})


def amdim_views(size: int) -> Views:
    """Make AMDIM's two views (arXiv:1906.00910, section 4): crops of 0.3 to 1, colours changed, a quarter grey.

    Args:
        size: Side of the views, px.
    """
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)
    group = CropGroup(count=2, scale=(0.3, 1.0), color_jitter=jitter, greyscale=Greyscale(p=0.25))
    return Views(size=size, groups={"global_crops": group})


def yadim_views(size: int) -> Views:
    """Make YADIM's two views (arXiv:2009.00104): AMDIM's changes and CPC v2's, of the whole view.

    Args:
        size: Side of the views, px.
    """
    (crop,) = amdim_views(size).groups.values()
    both = crop.model_copy(
        update={
            "affine": Affine(p=0.2, translate=0.0, scale=(1.0, 1.0)),
            "channel_drop": ChannelDrop(p=0.2),
        }
    )
    return Views(size=size, groups={"global_crops": both})


def videomae_views(size: int) -> Views:
    """Make the single crop and flip of a clip for VideoMAE (arXiv:2203.12602), all frames cut and flipped alike.

    The paper chooses among a few boxes at the corners and in the middle; this is the continuous box of masked
    autoencoders for video (arXiv:2205.09113). Set `flip` to 0 where left and right mean something, as in SSv2.

    Args:
        size: Side of the view, px.
    """
    return Views(size=size, groups={"global_crops": CropGroup(scale=(0.5, 1.0))})


def _unlike(size: int, scale: tuple[float, float]) -> tuple[CropGroup, CropGroup]:
    """BYOL's two views: the colours of one distribution, blur and solarisation of two."""
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    first = CropGroup(
        scale=scale, color_jitter=jitter, greyscale=Greyscale(), blur=_blur(size, p=1.0)
    )
    second = first.model_copy(update={"blur": _blur(size, p=0.1), "solarize": Solarize(p=0.2)})
    return first, second


def _blur(size: int, p: float = 0.5) -> GaussianBlur | None:
    """A blur for views of this side; small images are not blurred."""
    return None if size <= SMALL_IMAGE_PX else GaussianBlur(p=p)


def _local_size(size: int) -> int:
    """Side of the small views of multi-crop, px: 96 for 224; a multiple of 8, so that patches fit."""
    return max(8, round(size * 96 / 224 / 8) * 8)
