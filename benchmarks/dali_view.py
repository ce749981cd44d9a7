"""A recipe's view in DALI's graph language, which takes `if` of a random node for a choice made
image by image."""

from typing import Any

from augment.recipe import CropGroup

_TURN = 360.0  # degrees


def dali_view(image: Any, group: CropGroup, size: int) -> Any:
    """Build the nodes of one view from that of the decoded image; DALI rewrites the conditions when
    it is called."""
    from nvidia.dali import fn, types

    jitter, grey, blur = group.color_jitter, group.greyscale, group.blur
    x = fn.random_resized_crop(
        image,
        size=(size, size),
        random_area=group.scale,
        random_aspect_ratio=group.ratio,
        antialias=True,
    )
    x = fn.flip(x, horizontal=fn.random.coin_flip(probability=group.flip))
    if fn.random.coin_flip(probability=jitter.p, dtype=types.BOOL):
        x = fn.color_twist(
            x,
            brightness=fn.random.uniform(range=(1 - jitter.brightness, 1 + jitter.brightness)),
            contrast=fn.random.uniform(range=(1 - jitter.contrast, 1 + jitter.contrast)),
            saturation=fn.random.uniform(range=(1 - jitter.saturation, 1 + jitter.saturation)),
            hue=fn.random.uniform(range=(-_TURN * jitter.hue, _TURN * jitter.hue)),
        )
    if fn.random.coin_flip(probability=grey.p, dtype=types.BOOL):
        x = fn.saturation(x, saturation=0.0)
    if fn.random.coin_flip(probability=blur.p, dtype=types.BOOL):
        x = fn.gaussian_blur(x, sigma=fn.random.uniform(range=blur.sigma))
    return x
