"""How an encoder sees clips: its settings."""

from typing import Any, Literal

from pydantic import Field

from models.encoders.hub_names import TORCHVISION

CLIP_NETWORKS = ("r3d_18", "mc3_18", "r2plus1d_18")
"""Networks of torchvision that see clips by themselves, of any size and length."""
_TUBELET = 2

Time = Literal["frames", "tubelets", "divided", "inflated"]
TIME: Any = Field(
    default=None,
    description=(
        "how clips are seen. frames: each by itself, embeddings averaged; vision transformers:"
        " tubelets, patches of encoder.tubelet frames that attend to all of a clip"
        " (arXiv:2203.12602), or divided, to their place through time and then to their frame"
        " (arXiv:2102.05095); inflated: resnet18_small convolves over time too"
        " (arXiv:1705.07750). null: still images; torchvision:"
        f"{', '.join(CLIP_NETWORKS)} see clips by themselves"
    ),
)
TUBELET: Any = Field(
    default=_TUBELET, ge=1, description="tubelets, divided: frames of a patch; divides a clip"
)


def media_of(name: str, time: Time | None) -> Literal["image", "clip"]:
    """Return what one sample is to an encoder of this name and way to see clips."""
    return "clip" if time is not None or _sees_clips(name) else "image"


def _sees_clips(name: str) -> bool:
    prefix, _, network = name.partition(":")
    return f"{prefix}:" == TORCHVISION and network in CLIP_NETWORKS


def check_time(name: str, time: Time | None, tubelet: int, others: dict[str, Any]) -> None:
    """Refuse a way to see clips that an encoder has not, or that other settings contradict.

    Args:
        name: Of the encoder.
        time: The way; None: it sees images, or clips by itself.
        tubelet: Frames of a patch.
        others: Settings by key that are for images alone, where they are given.

    Raises:
        ValueError: with key, value and remedy.
    """
    if time is not None and _sees_clips(name):
        raise ValueError(
            f"encoder.time={time} has no effect on encoder.name={name}, which sees clips by itself:"
            " leave it out"
        )
    if time == "inflated" and name != "resnet18_small":
        raise ValueError(
            f"encoder.time=inflated cannot be done by encoder.name={name}: take resnet18_small, or"
            f" {TORCHVISION}{CLIP_NETWORKS[0]}, which is built for clips"
        )
    if tubelet != _TUBELET and time not in ("tubelets", "divided"):
        raise ValueError(
            f"encoder.tubelet={tubelet} has no effect without encoder.time=tubelets or divided;"
            " leave it out"
        )
    if media_of(name, time) == "clip":
        for key, value in others.items():
            raise ValueError(
                f"encoder.{key}={value} is for still images: leave it out, or encoder.time"
            )


def check_frames(time: Time | None, tubelet: int, num_frames: int) -> None:
    """Refuse clips that do not divide into tubelets.

    Raises:
        ValueError: with both keys.
    """
    if time in ("tubelets", "divided") and num_frames % tubelet:
        raise ValueError(
            f"clip.num_frames={num_frames} must be a multiple of encoder.tubelet={tubelet}"
        )
