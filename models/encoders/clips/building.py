"""From an encoder's name and its way to see clips to an encoder of clips with random weights."""

from models.encoders.clips.convolutions import InflatedEncoder, TorchvisionClipEncoder
from models.encoders.clips.time_settings import Time
from models.encoders.clips.tubelets import DividedEncoder, TubeletEncoder
from models.encoders.encoder import Encoder
from models.encoders.library import timm_encoder, torchvision_network
from models.encoders.resnet_small import ResNetSmall
from models.encoders.vit import VisionTransformerEncoder
from models.encoders.vit_small import vit_tiny_small


def clip_network(name: str, image_size: int) -> Encoder:
    """Build a network of torchvision that sees clips by itself.

    Args:
        name: As of torchvision.
        image_size: Side of the frames, px.
    """
    return TorchvisionClipEncoder(torchvision_network(name), image_size, f"torchvision:{name}")


def transformer_of_clips(
    name: str, time: Time, tubelet: int, image_size: int, width: int, num_heads: int | None
) -> Encoder:
    """Build a vision transformer over tubelets.

    Args:
        name: vit_tiny_small, or a vision transformer of timm.
        time: "tubelets" or "divided".
        tubelet: Frames of a patch.
        image_size: Side of the frames, px.
        width: Of vit_tiny_small.
        num_heads: Attention heads of a block of timm's; None: the network's own.

    Raises:
        ValueError: it is no plain vision transformer, or the size does not suit it.
    """
    made: Encoder
    if name == "vit_tiny_small":
        made = vit_tiny_small(image_size, width, tubelet)
    else:
        made = timm_encoder(name, image_size, num_heads, tubelet)
    if not isinstance(made, VisionTransformerEncoder):
        raise ValueError(
            f"encoder.time={time} cannot be done by encoder.name={name}, which is no plain vision"
            " transformer: take vit_tiny_small or a vision transformer of timm, or"
            " encoder.time=frames"
        )
    kind = TubeletEncoder if time == "tubelets" else DividedEncoder
    return kind(made.vit, tubelet)


def inflated_network(image_encoder: Encoder) -> Encoder:
    """Build a convolutional network over clips from one over images."""
    assert isinstance(image_encoder, ResNetSmall)
    return InflatedEncoder(image_encoder)
