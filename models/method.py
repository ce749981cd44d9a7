"""What a pretraining method is to the training loop."""

import difflib
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from augment.frozen import Frozen
from augment.recipe import IMAGENET_MEAN, IMAGENET_STD, AnyViews, PairKind, Views
from models import optim
from models.encoders.encoder import Encoder
from models.encoders.factory import EncoderConfig
from models.multimodal.text_tower import TextTower
from models.starting.fitting import starting_encoder

UNLIKE_VIEWS = ("global_crops_1", "global_crops_2")
"""Groups of one view each, whose colours are drawn differently (BYOL, arXiv:2006.07733)."""

ViewGroups = Mapping[str, int | None]
"""Groups of views to how many views each has; None: any number, of any side, or none at all."""


Media = Literal["image", "clip", "audio", "text"]
MEDIA_WORDS: dict[Media, str] = {
    "image": "images",
    "clip": "clips",
    "audio": "sounds",
    "text": "texts",
}


class Batch(TypedDict):
    """One worker's share of a step; labels only for methods that declare them."""

    views: dict[str, Tensor]
    """Group name -> (V, B, 3, S, S) float, normalised; (V, B, T, 3, S, S) for a method of clips;
    of sounds windows (V, B, L)."""
    sample_id: Tensor
    """(B,) int64."""
    row: Tensor
    """(B,) int64; the sample's place among all rows ever stored in the manifest, the same in every
    later version. Not unique in a batch that straddles two epochs."""
    epoch: Tensor
    """(B,) int64; a batch may straddle two epochs."""
    valid: Tensor
    """(B,) bool; False where the sample could not be decoded, its pixels are then finite and
    meaningless."""
    targets: NotRequired[dict[str, Tensor]]
    """What `Method.columns` and `Method.pairs` ask for, by column: "label" (B,) int64, "label_hot"
    (B, C) uint8, "mask" (B, S, S) uint8, "boxes" (B, M, 5) float32: left, top, right and bottom in
    px of the view, and the class, below 0 where there is no box; "pair", the second image of each
    view of the first group, cut and mirrored as the view is, colours unchanged: (B, V, 3, S, S)
    uint8, of depths (B, V, 1, S, S) int32; and, for `Method.flow`, "flow", (B, V, T - 1, 2, S, S)
    float16: how far each place of a view moves to the right and down until the next frame, px;
    "sound", (B, V, L) int16: what goes with the clip of a video's sound, and for V of 2 a stretch
    at another time, zeros where there is none; and, for `Method.posed`, "motion" (B, 6) float32,
    how the camera moved from a sample's image to its second one: right, down, ahead, and turns
    about these axes, each as its rank in [0, 1]."""


class MethodConfig(Frozen):
    """Base of the methods' configurations; each narrows `name` to its own word."""

    name: str

    @property
    def keeps_weights(self) -> str | None:
        """Return key and value by which the encoder stays as it starts, which asks for weights to
        start from; None: it learns."""
        return None

    def check_rows(self, num_rows: int) -> None:
        """Refuse a corpus that the method has no room for; before anything starts.

        Args:
            num_rows: Rows ever stored in the manifest.

        Raises:
            ValueError: there are too many, or too few.
        """


class Shipped(NamedTuple):
    """What the artifact of a run holds.

    Attributes:
        encoder: The encoder.
        head: What labels taught.
        text: What embeds texts, for a method of captions.
    """

    encoder: Encoder
    head: nn.Module | None = None
    text: TextTower | None = None


class Method(nn.Module):
    """A self-supervised objective around an encoder.

    `forward` is the only call that data-parallel wrappers synchronise, so all that needs gradients
    happens in it. The encoder is built before anything else: the same seed and `build_encoder`
    alone give the "untrained" encoder. Weights that it starts from are in it before a method copies
    it as a teacher.

    Args:
        config: The method's own settings.
        encoder_config: The encoder to train.
        views: Which views it is fed.
        seed: Key of the draws that the method itself makes (masks).

    Attributes:
        Config: The class of `config`.
        small: A configuration at which a step takes a moment, for the tests.
        small_px: Side of the views that it is tested on.
        view_groups: The groups of views that it eats; any other is refused.
        media: What one sample is to it.
        views_kind: The class of its views.
        takes_clips: Whether a sample may be a clip as well, where the encoder sees clips: of
            methods of images that see them by the encoder's embedding alone.
        columns: What else of a sample it needs, beside what every batch has: the manifest's column
            to where it comes from, for who lacks it ("a .txt file beside each image").
        pairs: Kinds of second images that it takes; none: its batch has no second images.
        flow: Whether it takes clips with the flow between their frames.
        posed: Whether its second images are frames from near by, with the camera's motion.
        adversarial: Whether it trains a part called `discriminator`: `forward` then returns a
            second loss, and a second optimiser moves that part's parameters.
        trains_patches: Whether it trains patch tokens by themselves: health then watches them
            beside the embedding.
        projection_std: Standard deviation that the objective asks of each projected feature, by
            which health then judges; None: it compares directions.
        accumulates: Whether the loss is a mean over samples, so that micro-batches may be
            accumulated.
        encoder: What ships.
        progress: Fraction of the run's steps made, a float32 scalar in the state dict; `after_step`
            keeps it. What changes during a run and is needed in `forward` follows it, so that
            nothing waits for the device.
    """

    Config: ClassVar[type[MethodConfig]]
    small: ClassVar[MethodConfig]
    small_px: ClassVar[int] = 16
    view_groups: ClassVar[ViewGroups]
    media: ClassVar[Media] = "image"
    views_kind: ClassVar[type[AnyViews]] = Views
    takes_clips: ClassVar[bool] = False
    columns: ClassVar[Mapping[str, str]] = {}
    pairs: ClassVar[tuple[PairKind, ...]] = ()
    flow: ClassVar[bool] = False
    posed: ClassVar[bool] = False
    adversarial: ClassVar[bool] = False
    trains_patches: ClassVar[bool] = False
    projection_std: float | None = None
    accumulates: ClassVar[bool]
    encoder: Encoder
    progress: Tensor

    def __init__(
        self, config: MethodConfig, encoder_config: EncoderConfig, views: AnyViews, seed: int
    ) -> None:
        super().__init__()
        check_views(views, self.view_groups, config.name)
        self._check_media(config, encoder_config)
        if encoder_config.split is not None:
            assert isinstance(views, Views)
            check_normalisation(views, f"encoder.split={encoder_config.split}")
        self.encoder, _ = starting_encoder(encoder_config, views.size)
        self.config = config
        self.views = views
        self.seed = seed
        self.register_buffer("progress", torch.zeros(()))
        if encoder_config.keep_tokens < 1 or encoder_config.media == "text":  # dropout by key
            self.register_forward_pre_hook(_key_tokens)

    def _check_media(self, config: MethodConfig, encoder_config: EncoderConfig) -> None:
        """Refuse an encoder of clips for a method of images, and the other way round.

        Raises:
            ValueError: with what helps.
        """
        sees = encoder_config.media
        if sees == self.media or (self.takes_clips and sees == "clip"):
            return
        if {sees, self.media} != {"image", "clip"}:
            raise ValueError(
                f"encoder.name={encoder_config.name} sees {MEDIA_WORDS[sees]}, and method.name="
                f"{config.name} takes {MEDIA_WORDS[self.media]}: take an encoder of these"
            )
        given = "encoder.name" if encoder_config.time is None else "encoder.time"
        value = encoder_config.time or encoder_config.name
        if sees == "clip":
            raise ValueError(
                f"{given}={value} sees clips, and method.name={config.name} takes images:"
                f" {'leave it out' if encoder_config.time else 'take an encoder of images'}"
            )
        raise ValueError(
            f"encoder.name={encoder_config.name} sees still images, and method.name={config.name}"
            " takes clips: set encoder.time=frames, tubelets, divided or inflated"
        )

    @classmethod
    def min_samples(cls) -> int:
        """Return the fewest samples of a global batch with which the objective is defined."""
        return 1 if cls.accumulates else 2

    @staticmethod
    def default_views(size: int) -> AnyViews:
        """Make the views of the method's paper, of side `size` px; of sounds windows of so many
        samples."""
        raise NotImplementedError

    def expect_rows(self, num_rows: int) -> None:
        """Make room for samples whose `row` is below `num_rows`, for methods that keep something of
        each.

        Called by every worker, alike, after the state was restored and before the first step: a
        resumed run may find that the manifest has grown, and what is kept of earlier rows stays.
        """

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the objective on this worker's samples.

        Returns:
            "loss" (float32 scalar to minimise), further float scalars to log, and "embedding" (B,
            D): the encoder's detached output, row i of sample i, for the health metrics. An
            adversarial method also returns "discriminator_loss". One backward pass minimises their
            sum, so neither may
            reach the other's parameters: in "loss" the discriminator is called with its parameters
            detached (`torch.func.functional_call`), in "discriminator_loss" what it judges is.
        """
        raise NotImplementedError

    @property
    def trained_encoder(self) -> Encoder:
        """Return the encoder that gradients move: where a teacher ships, the part called
        `student_encoder`."""
        student = self._modules.get("student_encoder")
        return student if isinstance(student, Encoder) else self.encoder

    def project(self, embedding: Tensor) -> Tensor | None:
        """Return what the objective compares of embeddings (B, D), (B, P); None without a
        projection head."""
        head = self._modules.get("projection_head")
        return None if head is None else head(embedding)

    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw what the objective makes of a batch, for people; the views themselves are known.

        `preview` draws it untrained (`progress` is 0) and `report` at the newest checkpoint.

        Returns:
            Heading, at most 18 characters -> (B, 3, H, W) RGB in [0, 1]; empty where there is
            nothing to see.
        """
        return {}

    def project_beside(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the objective compares of a second modality, by its name in plural: so that
        health sees where its tower collapses alone.

        Args:
            targets: Of N samples, "caption" or "sound" as in a batch.

        Returns:
            (N, P) each; empty where no tower of its own is trained.
        """
        return {}

    @property
    def image_views(self) -> Views:
        """Return the views, of a method of images or clips."""
        assert isinstance(self.views, Views)
        return self.views

    def to_rgb(self, images: Tensor) -> Tensor:
        """Undo the normalisation of views (..., 3, H, W): RGB in [0, 1]."""
        mean, std = (
            images.new_tensor(values).view(3, 1, 1)
            for values in (self.image_views.mean, self.image_views.std)
        )
        return (images * std + mean).clamp(0, 1)

    def from_rgb(self, rgb: Tensor) -> Tensor:
        """Normalise RGB in [0, 1], (..., 3, H, W), as the views are."""
        mean, std = (
            rgb.new_tensor(values).view(3, 1, 1)
            for values in (self.image_views.mean, self.image_views.std)
        )
        return (rgb - mean) / std

    def before_step(self, step: int, num_steps: int) -> None:
        """Drop the gradients of what has to wait, before the optimiser makes step `step`, from 0
        on, of `num_steps`.

        A parameter whose `grad` is None is not moved, by weight decay neither, and no moment of an
        optimiser sees it. Gradients of zeros would be seen, and Adam's first steps after them are
        too large. It has a gradient in every backward pass nevertheless, as data-parallel training
        waits for it. Called by every worker alike.
        """

    def after_step(self, step: int, num_steps: int) -> None:
        """Move what moves without a gradient (teacher, queue, schedules) after step `step` of
        `num_steps`.

        Called by every worker; a method that moves more than `progress` calls this one as well.
        """
        self.progress.fill_(step / num_steps)

    def ships(self) -> Shipped:
        """Return what the artifact holds; the part called `text_tower` is one."""
        tower = self._modules.get("text_tower")
        return Shipped(self.encoder, text=tower if isinstance(tower, TextTower) else None)

    def param_groups(self) -> list[optim.ParamGroup]:
        """Split the trainable parameters into named optimiser groups, with and without weight
        decay, a discriminator's apart."""
        return optim.adversarial_groups(self) if self.adversarial else optim.param_groups(self)


def _key_tokens(method: nn.Module, arguments: tuple[Batch]) -> None:
    """Tell the trained encoder of which samples a batch is, for what it leaves out."""
    assert isinstance(method, Method)
    (batch,) = arguments
    method.trained_encoder.token_key = method.seed, batch["epoch"], batch["sample_id"]


def total_loss(outputs: Mapping[str, Tensor]) -> Tensor:
    """Return what one backward pass minimises, of what `Method.forward` returned."""
    loss = outputs["loss"]
    return loss + outputs["discriminator_loss"] if "discriminator_loss" in outputs else loss


def check_views(views: AnyViews, groups: ViewGroups, method: str) -> None:
    """Refuse views that a method cannot eat.

    Args:
        views: What it would be fed.
        groups: What it eats.
        method: Its name.

    Raises:
        ValueError: a group that it does not eat; or one of another number of views, or of another
            side, than it needs.
    """
    for group in views.groups:
        if group not in groups:
            raise ValueError(unknown_group(group, groups, method))
    for group, count in groups.items():
        if count is None:
            continue
        found = views.groups[group].count if group in views.groups else 0
        if found != count:
            raise ValueError(
                f"views.groups.{group}.count must be {count} for method.name={method}, got {found}"
            )
        if views.group_size(group) != views.size:
            raise ValueError(
                f"views.groups.{group}.size must be left out or equal views.size={views.size}, "
                f"got {views.group_size(group)}"
            )


def check_normalisation(views: Views, by: str) -> None:
    """Refuse views that are not normalised by ImageNet's mean and deviation, for an encoder that
    undoes it to see colours.

    Raises:
        ValueError: with both keys.
    """
    if (views.mean, views.std) != (IMAGENET_MEAN, IMAGENET_STD):
        raise ValueError(
            f"{by} undoes ImageNet's mean and deviation: leave views.mean={views.mean} and"
            f" views.std={views.std} out"
        )


def unknown_group(group: str, groups: ViewGroups, method: str) -> str:
    """Say that a method does not eat a group of views, and which group is meant."""
    nearest = difflib.get_close_matches(group, groups, n=1, cutoff=0.0)[0]
    takes = ", ".join(groups)
    hint = f", nearest views.groups.{nearest}" if len(groups) > 1 else ""
    return f"unknown key views.groups.{group}: method.name={method} takes {takes}{hint}"
