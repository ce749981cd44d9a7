"""Views of several sizes through one encoder (multi-crop, arXiv:2006.09882)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from augment.recipe import Views
from models.encoders.encoder import Encoder

_BLANK_TUBELETS = 4


def check_crop_sizes(views: Views, encoder: Encoder) -> None:
    """Refuse views of a size that the encoder cannot take, by embedding one blank sample of each.

    Raises:
        ValueError: a group's size does not suit the encoder.
    """
    frames = (_BLANK_TUBELETS * encoder.tubelet,) if encoder.media == "clip" else ()
    encoder.eval()  # batch norm would refuse one value per channel, and would keep it
    for group in views.groups:
        size = views.group_size(group)
        try:
            with torch.no_grad():
                encoder(torch.zeros(1, *frames, 3, size, size))
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"views.groups.{group}.size={size} does not suit the encoder ({error}): change it"
                " or take another one"
            ) from error
    encoder.train()


def encode_by_size(encoder: Encoder, crops: Sequence[Tensor]) -> Tensor:
    """Embed groups of views, calling the encoder once for all views of one size.

    Args:
        encoder: Takes images of every size.
        crops: Groups of views of the same B samples, (V_i, B, 3, S_i, S_i) each.

    Returns:
        (V, B, D), views in the order of the groups.
    """
    num_samples = crops[0].shape[1]
    embeddings: dict[int, Tensor] = {}
    for size in dict.fromkeys(group.shape[-1] for group in crops):
        members = [index for index, group in enumerate(crops) if group.shape[-1] == size]
        joined = encoder(
            torch.cat([crops[index].flatten(0, 1) for index in members])
        )  # (sum of V_i * B, D)
        counts = [crops[index].shape[0] * num_samples for index in members]
        embeddings |= zip(members, joined.split(counts), strict=True)
    in_order = torch.cat([embeddings[index] for index in range(len(crops))])  # (V * B, D)
    return in_order.reshape(-1, num_samples, in_order.shape[-1])
