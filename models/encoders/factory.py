"""From an encoder's name to an encoder with random weights.

timm and torchvision are imported when an encoder of theirs is wanted: they take 4 s of CPU, and
every process of a cluster that reads a configuration would pay it.
"""

import difflib
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from augment.frozen import Frozen
from models.encoders.clips.time_settings import TIME, TUBELET, Time, check_time, media_of
from models.encoders.encoder import Encoder, Pooling
from models.encoders.hub_names import TORCHVISION, architecture
from models.encoders.sound.wave_names import WAVE_BLOCKS, check_sound, sees_sound
from models.encoders.texts.text_settings import TEXT_ENCODERS, TextSettings, check_text

_SMALL = ("resnet18_small", "vit_tiny_small", "amdim", *WAVE_BLOCKS)
_DEFAULT_WIDTH = 64


class EncoderConfig(Frozen):
    """Which network is pretrained, and from which weights it starts."""

    name: str = Field(
        default="resnet18_small",
        description=(
            "resnet18_small or vit_tiny_small (for 32 to 96 px), amdim (16 to 256 px, a power of"
            " two), a timm name (hub prefix and weights tag are dropped), or torchvision:NAME;"
            f" of sounds {', '.join(WAVE_BLOCKS)}; of texts {' or '.join(TEXT_ENCODERS)}"
        ),
    )
    width: int = Field(
        default=_DEFAULT_WIDTH,
        ge=4,
        multiple_of=4,
        description=(
            "resnet18_small, amdim: channels of the first stage, D = 8 * width; wave_*: D = 8 *"
            " width; vit_tiny_small:"
            " features of a head, D = 3 * width; other encoders have their width in their name"
        ),
    )
    norm: Literal["batch", "layer", "none"] = Field(
        default="batch",
        description="resnet18_small: its norm layers; batch norm is the one that mixes images",
    )
    patch_size: int | None = Field(
        default=None,
        # below, a ResNet strides over 1 px, whose bfloat16 gradient torch 2.14 leaves unset at
        # times, on CPUs
        ge=8,
        description=(
            "cut the image into overlapping patches of this side, px, encode each by itself and"
            " average them (cpc, cpc_v2, relative_position, jigsaw); null: the whole image"
        ),
    )
    patch_stride: int | None = Field(
        default=None, ge=1, description="from one patch to the next, px; null: half of patch_size"
    )
    patch_norm: bool = Field(
        default=False,
        description=(
            "normalise each channel of a patch of patch_size by its own mean and deviation (jigsaw)"
        ),
    )
    zero_init_residual: bool = Field(
        default=False,
        description=(
            "residual networks start as if they had no blocks: the last norm of each is 0"
            " (arXiv:1706.02677)"
        ),
    )
    pooling: Pooling = Field(
        default="auto",
        description=(
            "how an image's places become its embedding: mean, max or gem (mean of third powers) of"
            " the feature map or patch tokens, class (a transformer's class token); auto: the"
            " encoder's own way"
        ),
    )
    split: Literal["lab", "whole"] | None = Field(
        default=None,
        description=(
            "two networks of half the width, one of which sees each image's lightness and the other"
            " its colours (split_brain); one whose width is in its name is taken twice; whole: both"
            " see all, which split_brain cheats by; null: one network"
        ),
    )
    causal: Literal["raster", "columns", "upwards", "outwards"] | None = Field(
        default=None,
        description=(
            "vision transformers: a patch sees itself and those before it in this order alone"
            " (autoregressive): rows from the top, columns from the left, rows from the bottom, or"
            " from the middle; null: it sees all"
        ),
    )
    num_heads: int | None = Field(
        default=None,
        ge=1,
        description=(
            "vision transformers of timm: attention heads of a block, a divisor of the token's"
            " width; null: the network's own"
        ),
    )
    qkv_init: Literal["joint", "apart"] = Field(
        default="joint",
        description=(
            "vision transformers: random queries, keys and values are drawn as one layer, or apart"
            " as three, which are sqrt(2) times as large (moco_v3)"
        ),
    )
    drop_path: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description=(
            "vision transformers: share of samples that skip a branch of the last block in"
            " training, and in proportion fewer in earlier ones (arXiv:1603.09382); a teacher's"
            " skip none"
        ),
    )
    keep_tokens: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description=(
            "vision transformers: share of each view's patches that training encodes, drawn anew"
            " each time (arXiv:2410.22364); others cost nothing"
        ),
    )
    text: TextSettings = TextSettings()
    time: Time | None = TIME
    tubelet: int = TUBELET
    weights: str | None = Field(
        default=None,
        min_length=1,
        description=(
            "start from these: an artifact, or a safetensors or torch file of timm, torchvision,"
            " DINO, DINOv2, DINOv3, MAE, MoCo or V-JEPA; null: random"
        ),
        examples=["URI"],
    )
    min_share: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description=(
            "refuse weights that fill less of the encoder, by number of tensors and of values"
        ),
    )

    @property
    def media(self) -> Literal["image", "clip", "audio", "text"]:
        """Return what one sample is to the encoder."""
        if sees_sound(self.name):
            return "audio"
        if self.name in TEXT_ENCODERS:
            return "text"
        return media_of(self.name, self.time)

    def idle(self) -> dict[str, str]:
        """Return what random weights have no use for."""
        idle = {"min_share": "weights"} if self.weights is None else {}
        unused = self.text.unused(self.name)
        return idle | {f"text.{name}": "name" for name in unused}

    @classmethod
    def voided_by(cls, key: str, values: dict[str, Any]) -> tuple[str, ...]:
        """Return what an encoder by name, or a size of patches, leaves without effect."""
        name = values.get("name")
        width = name not in _SMALL and values.get("width", _DEFAULT_WIDTH) != _DEFAULT_WIDTH
        norm = name != "resnet18_small" and values.get("norm", "batch") != "batch"
        if key == "name":
            return (*(("width",) if width else ()), *(("norm",) if norm else ()))
        stride = values.get("patch_stride")
        side = values.get("patch_size")
        too_long = side is None or (isinstance(stride, int) and stride > side)
        if key != "patch_size":
            return ()
        unnormed = side is None and values.get("patch_norm", False)
        return (
            *(("patch_stride",) if too_long else ()),
            *(("patch_norm",) if unnormed else ()),
        )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in (*_SMALL, *TEXT_ENCODERS):
            return name
        from models.encoders.library import timm_names, torchvision_names

        if name.startswith(TORCHVISION):
            known = [TORCHVISION + candidate for candidate in torchvision_names()]
        else:
            name = architecture(name)
            known = [*_SMALL, *TEXT_ENCODERS, *timm_names()]
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or list(_SMALL)
            raise ValueError(f"encoder.name={name} is not known; nearest: {', '.join(nearest)}")
        return name

    @model_validator(mode="after")
    def _settings_have_effect(self) -> "EncoderConfig":
        if sees_sound(self.name):
            check_sound(self.name, self.model_dump(exclude_defaults=True))
            return self
        if self.name in TEXT_ENCODERS:
            check_text(self.model_dump(exclude_defaults=True))
            return self
        if self.name not in _SMALL and self.width != _DEFAULT_WIDTH:
            raise ValueError(
                f"encoder.width={self.width} has no effect on encoder.name={self.name}; "
                f"leave it out, or use one of {', '.join(_SMALL)}"
            )
        if self.name != "resnet18_small" and self.norm != "batch":
            raise ValueError(
                f"encoder.norm={self.norm} has no effect on encoder.name={self.name}; leave it out"
            )
        if self.patch_stride is not None and (
            self.patch_size is None or self.patch_stride > self.patch_size
        ):
            raise ValueError(
                f"encoder.patch_stride={self.patch_stride} must be at most encoder.patch_size, got"
                f" {self.patch_size}"
            )
        if self.num_heads is not None and self.name in _SMALL:
            raise ValueError(
                f"encoder.num_heads={self.num_heads} has no effect on encoder.name={self.name}; "
                "leave it out"
            )
        if self.patch_norm and self.patch_size is None:
            raise ValueError(
                "encoder.patch_norm=true has no effect without encoder.patch_size; set both"
            )
        if self.split is not None:
            self._check_split()
        of_images = ("patch_size", "causal", "split")
        given = {key: value for key in of_images if (value := getattr(self, key)) is not None}
        if self.time == "frames" and self.keep_tokens < 1:
            given["keep_tokens"] = self.keep_tokens
        check_time(self.name, self.time, self.tubelet, given)
        return self

    def _check_split(self) -> None:
        for key in ("patch_size", "causal"):
            if getattr(self, key) is not None:
                raise ValueError(
                    f"encoder.split={self.split} cannot be done beside encoder.{key}; leave one of"
                    " them out"
                )
        if self.name in _SMALL and self.width % 8:
            raise ValueError(
                f"encoder.width={self.width} cannot be shared out between the halves of"
                f" encoder.split={self.split}: give a multiple of 8"
            )


def build_encoder(config: EncoderConfig, image_size: int) -> Encoder:
    """Build the configured encoder with random weights from torch's CPU generator.

    Args:
        config: What to build.
        image_size: Side of the images, pixels; of sounds the length of a window, samples; of texts
            their tokens.

    Returns:
        The encoder in training mode, on the CPU.

    Raises:
        ValueError: the image size does not suit the encoder, or it cannot do the pooling.
    """
    if config.time == "frames":
        from models.encoders.clips.frames import FramesEncoder

        frame = config.model_copy(update={"time": None})
        encoder: Encoder = FramesEncoder(build_encoder(frame, image_size))
        encoder.media = config.media
        return encoder
    encoder = _build(config, image_size)
    if config.causal is not None:
        encoder = _made_causal(encoder, config)
    encoder.name = config.name
    changing = {key: getattr(config, key) for key in ("patch_size", "split", "causal")}
    encoder.changed_by = tuple(f"encoder.{key}" for key, value in changing.items() if value)
    encoder.media = config.media
    if config.keep_tokens < 1:
        _keep_some_tokens(encoder, config)
    if config.zero_init_residual and config.patch_size is None:
        from models.encoders.resnet_small import zero_last_norms

        zero_last_norms(encoder)
    if config.patch_size is None and config.split is None:  # of each part by itself
        _set_transformer(encoder, config)
    encoder.use_pooling(config.pooling)
    return encoder


def _made_causal(encoder: Encoder, config: EncoderConfig) -> Encoder:
    from models.encoders.causal_vit import CausalVisionTransformer
    from models.encoders.vit import VisionTransformerEncoder

    if not isinstance(encoder, VisionTransformerEncoder) or config.causal is None:
        raise ValueError(
            f"encoder.causal={config.causal} cannot be done by encoder.name={config.name}: take"
            " vit_tiny_small or a vision transformer of timm, or leave it out"
        )
    return CausalVisionTransformer(encoder.vit, config.causal)


def _set_transformer(encoder: Encoder, config: EncoderConfig) -> None:
    """Set what only vision transformers have.

    Raises:
        ValueError: it is set for another encoder.
    """
    wanted = {
        "num_heads": config.num_heads is not None,
        "qkv_init": config.qkv_init != "joint",
        "drop_path": config.drop_path > 0,
    }
    for key in (key for key, is_set in wanted.items() if is_set):
        from models.encoders.vit import VisionTransformerEncoder

        if not isinstance(encoder, VisionTransformerEncoder):
            raise ValueError(
                f"encoder.{key}={getattr(config, key)} has no effect on"
                f" encoder.name={encoder.name}, which is no vision transformer: leave it out"
            )
        if key == "qkv_init":
            encoder.draw_qkv_apart()
        if key == "drop_path":
            encoder.drop_paths(config.drop_path)


def _keep_some_tokens(encoder: Encoder, config: EncoderConfig) -> None:
    """Let training leave out patches.

    Raises:
        ValueError: the encoder needs all of them.
    """
    if config.causal is not None or not encoder.supports("tokens"):
        raise ValueError(
            f"encoder.keep_tokens={config.keep_tokens:g} cannot be done by encoder.name="
            f"{config.name}{' with encoder.causal' if config.causal else ''}: leave it out, or take"
            " vit_tiny_small or a vision transformer of timm"
        )
    encoder.keep_tokens = config.keep_tokens


def _build(config: EncoderConfig, image_size: int) -> Encoder:
    if config.patch_size is not None:
        from models.encoders.patch_grid import PatchGridEncoder

        of_patch = config.model_copy(
            update={
                "patch_size": None,
                "patch_stride": None,
                "patch_norm": False,
                "pooling": "auto",
                "causal": None,
            }
        )
        stride = config.patch_stride or config.patch_size // 2
        return PatchGridEncoder(
            build_encoder(of_patch, config.patch_size),
            image_size,
            config.patch_size,
            stride,
            patch_norm=config.patch_norm,
        )
    if config.split is not None:
        from models.encoders.split import SplitEncoder

        width = config.width // 2 if config.name in _SMALL else config.width
        of_half = config.model_copy(update={"split": None, "width": width})
        halves = build_encoder(of_half, image_size), build_encoder(of_half, image_size)
        return SplitEncoder(*halves, disjoint=config.split == "lab")
    if config.media == "audio":
        from models.encoders.sound.wave_encoder import WaveEncoder

        return WaveEncoder(8 * config.width, WAVE_BLOCKS[config.name])
    if config.media == "clip":
        return _of_clips(config, image_size)
    if config.media == "text":
        from models.encoders.texts.token_encoders import text_encoder

        return text_encoder(config.name, config.text, image_size)
    if config.name == "resnet18_small":
        from models.encoders.resnet_small import ResNetSmall

        return ResNetSmall(config.width, config.norm, image_size)
    if config.name == "vit_tiny_small":
        from models.encoders.vit_small import vit_tiny_small

        return vit_tiny_small(image_size, config.width)
    if config.name == "amdim":
        from models.encoders.local_global import LocalGlobalEncoder

        return LocalGlobalEncoder(image_size, config.width)
    from models.encoders.library import timm_encoder, torchvision_encoder

    if config.name.startswith(TORCHVISION):
        return torchvision_encoder(config.name.removeprefix(TORCHVISION), image_size)
    return timm_encoder(config.name, image_size, config.num_heads)


def _of_clips(config: EncoderConfig, image_size: int) -> Encoder:
    from models.encoders.clips import building

    if config.time is None:
        return building.clip_network(config.name.removeprefix(TORCHVISION), image_size)
    if config.time == "inflated":
        return building.inflated_network(
            _build(config.model_copy(update={"time": None}), image_size)
        )
    size = (image_size, config.width, config.num_heads)
    return building.transformer_of_clips(config.name, config.time, config.tubelet, *size)
