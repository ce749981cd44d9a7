"""Contrastive predictive coding (van den Oord 2018, arXiv:1807.03748).

An image is cut into a 7 x 7 grid of half-overlapping patches, each is encoded by itself, and a
network that reads the grid row by row must tell the features of patches further down from those of
other places and other images. What is shared by distant parts of an image, and hence predictable,
is kept; local detail is not. The score is log-bilinear, f_k = exp(z^T W_k c), so log N - loss
bounds the mutual information of context and target from below.

It cheats wherever a patch can know of another: by batch norm, whose statistics all patches share
(an encoder that has any is refused), and by pixels that context and target share. The row next to
the context overlaps it by half and is therefore not predicted, and each patch is a crop of 60 of
its 64 px at random. The network that reads the grid has no norm, as one over the grid would see the
rows that are to be predicted.

What ships is the patch encoder with its grid: an image is embedded by the mean over its patches, as
the paper pools them for its linear probe; see `PatchGridEncoder`. The context network is thrown
away.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.execution.patches import PatchChanges, change_patches
from augment.ops import Greyscale
from augment.presets import SMALL_IMAGE_PX
from augment.recipe import CropGroup, Views
from models.collectives import gather, global_mean
from models.encoders.encoder import Encoder
from models.encoders.factory import EncoderConfig
from models.encoders.patch_grid import PatchGridEncoder
from models.health import info_nce_bound
from models.method import Batch, Method, MethodConfig, ViewGroups

_GROUP = "global_crops"
# finite, as a row of -inf alone (no valid sample anywhere) would have a NaN gradient
_EXCLUDED = -1e30


class CPCConfig(MethodConfig):
    """CPC's settings; the defaults are the paper's for ImageNet."""

    name: Literal["cpc"] = "cpc"
    num_rows: int = Field(
        default=5, ge=1, description="rows predicted from each row's context, at most"
    )
    skip_rows: int = Field(
        default=1,
        ge=0,
        description="rows next to the context that are not predicted, as they share its pixels",
    )
    context_dim: int = Field(
        default=256, ge=1, description="features inside the layers that read the grid"
    )
    context_layers: int = Field(
        default=5, ge=1, description="layers that read the grid; each sees one row further up"
    )
    patches: PatchChanges = Field(
        default=PatchChanges(subcrop=60 / 64), description="what happens to each patch by itself"
    )


class CPC(Method):
    """A patch encoder, a network that reads its grid downwards, and InfoNCE of patches further
    down.

    Raises:
        ValueError: the encoder does not cut images into patches, or has batch norm.
    """

    Config: ClassVar[type[MethodConfig]] = CPCConfig
    small: ClassVar[MethodConfig] = CPCConfig(context_dim=16, context_layers=2)
    view_groups: ClassVar[ViewGroups] = {_GROUP: 1}
    accumulates: ClassVar[bool] = False
    encoder: PatchGridEncoder

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the one crop of section 3.2: 256 of 300 px, mirrored at random, without colour.

        Small images, which are not larger than the view, are cut down to as little as that share,
        and keep their colours.
        """
        share = (256 / 300) ** 2
        small = size <= SMALL_IMAGE_PX
        grey = None if small else Greyscale(p=1.0)
        group = CropGroup(scale=(share, 1.0 if small else share), greyscale=grey)
        return Views(size=size, groups={_GROUP: group})

    def __init__(
        self, config: CPCConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        check_patch_encoder(self.encoder, by=f"method.name={config.name}")
        self.patches = config.patches
        dim = self.encoder.embed_dim
        self.context = RowContext(dim, config.context_dim, config.context_layers)
        self.prediction = RowPrediction(
            dim, dim, self.encoder.grid[0], config.skip_rows, config.num_rows
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict the rows below from each row's context.

        Returns:
            loss: InfoNCE, nats; mean over the predictions of an image and over the global batch's
                valid samples. Candidates are all patches of all valid images: N of them give log N
                at chance.
            info_nce_bound: log N - loss, nats.
            embedding: Of the patches' features (B, D), detached; rows of invalid samples included.
        """
        images = batch["views"][_GROUP][0]  # (B, 3, S, S)
        features = encode_changed(
            self.encoder, images, self.patches, batch, self.seed
        )  # (B, R, C, D)
        candidates, bias = global_candidates(features, batch["valid"])
        per_sample = self.prediction(self.context(features), features, candidates, bias)
        loss = global_mean(per_sample, batch["valid"])
        return {
            "loss": loss,
            "info_nce_bound": info_nce_bound(loss, (bias == 0).sum()),
            "embedding": self.encoder.pool(features.detach().permute(0, 3, 1, 2)),
        }


class RowContext(nn.Module):
    """Reads a grid row by row: what comes out at row i has seen rows 0 to i, in all columns near
    and far.

    Args:
        dim: Features D of the grid.
        hidden_dim: Features inside a layer.
        num_layers: Residual layers; each sees one column further to both sides and one row further
            up.
        norm: Layer norm over the features of each place before each layer, which mixes no places.
    """

    def __init__(self, dim: int, hidden_dim: int, num_layers: int, *, norm: bool = False) -> None:
        super().__init__()
        # a second to import, which every process would spend
        from torchvision.models.convnext import LayerNorm2d

        self.layers = nn.ModuleList(
            nn.Sequential(
                LayerNorm2d(dim) if norm else nn.Identity(),
                nn.Conv2d(dim, hidden_dim, kernel_size=1),
                nn.Conv2d(hidden_dim, hidden_dim, kernel_size=(1, 3), padding=(0, 1)),
                nn.ReLU(),
                # a row of zeros above: row i then sees i - 1 and itself
                nn.ZeroPad2d((0, 0, 1, 0)),
                nn.Conv2d(hidden_dim, hidden_dim, kernel_size=(2, 1)),
                nn.ReLU(),
                nn.Conv2d(hidden_dim, dim, kernel_size=1),
            )
            for _ in range(num_layers)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Turn features (B, R, C, D) into contexts of the same shape."""
        x = features.permute(0, 3, 1, 2)  # (B, D, R, C)
        for layer in self.layers:
            x = x + layer(x)
        return x.permute(0, 2, 3, 1)


class RowPrediction(nn.Module):
    """Scores z^T W_k c for every k, and InfoNCE of the patch k rows below in the same column.

    Args:
        dim: Features of a context.
        target_dim: Features T of a target.
        grid: Rows of the grid.
        skip_rows: Rows below the context's that are not predicted.
        num_rows: Predicted after those, as far as the grid goes.

    Raises:
        ValueError: no row is left to predict.
    """

    def __init__(self, dim: int, target_dim: int, grid: int, skip_rows: int, num_rows: int) -> None:
        super().__init__()
        self.offsets = range(skip_rows + 1, min(skip_rows + num_rows, grid - 1) + 1)
        if not self.offsets:
            raise ValueError(
                f"method.skip_rows={skip_rows} leaves none of the grid's {grid} rows to predict"
            )
        maps = [nn.Linear(dim, target_dim, bias=False) for _ in self.offsets]
        for each in maps:
            nn.init.normal_(each.weight, std=(dim * target_dim) ** -0.5)  # scores near 0: chance
        self.weights = nn.ModuleList(maps)

    def forward(self, context: Tensor, targets: Tensor, candidates: Tensor, bias: Tensor) -> Tensor:
        """Return the mean InfoNCE of an image's predictions.

        Args:
            context: (B, R, C, D).
            targets: Features that are to be found, (B, R, C, T), among them each prediction's own.
            candidates: All patches of all images, those of `targets` included, (N, T) float32.
            bias: Added to the score of each candidate, (N,).

        Returns:
            (B,) float32, nats.
        """
        total = context.new_zeros(len(context), dtype=torch.float32)
        count = 0
        for offset, weight in zip(self.offsets, self.weights, strict=True):
            predicted = weight(context[:, :-offset]).float()  # (B, R - k, C, T)
            with torch.autocast(predicted.device.type, enabled=False):
                found = (predicted * targets[:, offset:].float()).sum(-1)  # (B, R - k, C)
                scores = torch.addmm(
                    bias, predicted.flatten(0, 2), candidates.T
                )  # (B * (R - k) * C, N)
            total = total + (scores.logsumexp(-1).view_as(found) - found).flatten(1).sum(1)
            count += found[0].numel()
        return total / count


def global_candidates(targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Gather all workers' patches (N, T) float32, and scores (N,) that shut invalid ones out."""
    candidates = gather(targets.float().flatten(1, 2)).flatten(0, 1)
    everyone_valid = gather(valid).repeat_interleave(targets.shape[1] * targets.shape[2])
    return candidates, candidates.new_zeros(len(candidates)).masked_fill(~everyone_valid, _EXCLUDED)


def encode_changed(
    encoder: PatchGridEncoder, images: Tensor, changes: PatchChanges, batch: Batch, seed: int
) -> Tensor:
    """Cut images (B, 3, S, S), change each patch by itself, and encode it: (B, G, G, D)."""
    keys = {"seed": seed, "epoch": batch["epoch"], "sample_id": batch["sample_id"]}
    return encoder.encode(change_patches(encoder.cut(images), changes, **keys))


def check_patch_encoder(encoder: Encoder, by: str) -> None:
    """Refuse an encoder of whole images, and one with batch norm anywhere.

    Raises:
        ValueError: with the setting that helps.
    """
    encoder.require("patches", by)
    if encoder.mixes_images:
        raise ValueError(
            f"encoder.name={encoder.name} has batch norm, by which patches know of each other; "
            f"{by} needs encoder.norm=layer or none (resnet18_small), "
            "or a network without, such as resnetv2_50x1_bit"
        )
