"""Contrastive random walk (Jabri 2020, "Space-Time Correspondence as a Contrastive Random Walk",
arXiv:2006.14613).

The patches of a clip's frames are the nodes of a graph, and how alike two patches of neighbouring
frames are says how likely a walker goes from one to the other. A walker goes from the first frame
to a later one and back again, and should return to where it set out: so the clip supervises itself,
and alike comes to mean of one and the same thing. Each later frame is a place to turn, so that
short walks teach before long ones succeed (section 2.2). Some edges are taken away at random, and
the walker has to find other paths through what belongs together (section 3.2).

It cannot collapse: where all patches are alike the walker returns by chance, log(N). It cheats by
whatever tells a patch's place: patches are encoded one by one, so that no border of the frame shows
in them, and each is cut a little elsewhere, so that neighbours do not match along their overlap. In
a clip that stands still every walk is easy, and little is learnt.

What ships is the encoder of a patch, shown whole frames later on; its maps then follow objects
(`probe.name=propagate`).
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from augment.masking import MaskKey
from augment.ops import Fraction
from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Media, Method, MethodConfig, ViewGroups
from models.temporal.patch_cuts import cut_patches, grid_boxes, patch_side

_FLOOR = 1e-12  # of a probability, below which its logarithm is cut off


def _ascending(shares: tuple[float, float]) -> tuple[float, float]:
    if not 0 < shares[0] <= shares[1]:
        raise ValueError(f"must be [LOW,HIGH] with 0 < LOW <= HIGH, got {list(shares)}")
    return shares


Range = Annotated[tuple[Fraction, Fraction], AfterValidator(_ascending)]


class CRWConfig(MethodConfig):
    """Settings of the contrastive random walk; the defaults are the paper's."""

    name: Literal["crw"] = "crw"
    grid: int = Field(default=7, ge=2, description="patches along each side of a frame")
    patch_share: float = Field(
        default=0.25, gt=0, le=1, description="side of a patch, as a share of the frame's"
    )
    jitter: Range = Field(
        default=(0.7, 0.9),
        description="range of the share of a patch's side that is seen, drawn anew; [1,1]: all",
    )
    temperature: float = Field(
        default=0.05, gt=0, description="cosine similarities of patches are divided by it"
    )
    edge_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="share of the edges that are taken away at random"
    )
    projection_dim: int = Field(default=128, ge=1, description="features that are compared")


class ContrastiveRandomWalk(Method):
    """Encoder of patches, a linear projection, and the cross entropy of walks that return.

    Raises:
        ValueError: the encoder does not embed frames one by one, or patches do not fit.
    """

    Config: ClassVar[type[MethodConfig]] = CRWConfig
    small: ClassVar[MethodConfig] = CRWConfig(grid=3, patch_share=0.5, projection_dim=16)
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    media: ClassVar[Media] = "clip"
    accumulates: ClassVar[bool] = True

    @staticmethod
    def default_views(size: int) -> Views:
        """Make a single crop and flip, colours untouched."""
        return plain_views(size, (0.4, 1.0))

    def __init__(
        self, config: CRWConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("frames", by="method.name=crw")
        self.settings = config
        self.side = patch_side(config.patch_share, views.size)
        self.projection_head = nn.Linear(self.encoder.embed_dim, config.projection_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Walk from the first frame to every later one and back.

        Returns:
            loss: Cross entropy, nats, of returning to where the walk began; mean over the patches
                of the first frame, over the walks and over the global batch's valid samples;
                log(N) at chance for N patches a frame.
            return_top1: Fraction of the patches to which the walk to the last frame and back
                returns likeliest; 1 / N at chance.
            embedding: The mean of the patches' embeddings (B, D), detached; rows of invalid samples
                included.

        Raises:
            ValueError: clips have one frame.
        """
        clips = batch["views"][PLAIN_VIEW][0]  # (B, T, 3, S, S)
        if clips.shape[1] < 2:
            raise ValueError("method.name=crw needs clip.num_frames>=2")
        key = MaskKey(self.seed, batch["epoch"], batch["sample_id"])
        features = self.encoder.frames(self.patches(clips, key).flatten(1, 2))  # (B, T*N, D)
        nodes = self.projection_head(features).float().unflatten(1, (clips.shape[1], -1))
        with torch.autocast(nodes.device.type, enabled=False):
            nodes = functional.normalize(nodes, dim=-1)  # (B, T, N, P)
            there, back = self._steps(nodes, key)
            walks = round_trips(there, back)  # (T - 1) of (B, N, N)
            entropy = torch.stack([returning(walk) for walk in walks]).mean(0)
            target = torch.arange(nodes.shape[2], device=nodes.device)
            returned = (walks[-1].detach().argmax(-1) == target).float().mean(1)
        return {
            "loss": global_mean(entropy, batch["valid"]),
            "return_top1": global_mean(returned, batch["valid"]),
            "embedding": features.mean(dim=1).detach(),
        }

    def patches(self, clips: Tensor, key: MaskKey) -> Tensor:
        """Cut the patches of clips (B, T, 3, S, S), each a little elsewhere: (B, T, N, 3, p, p)."""
        num_frames, size = clips.shape[1], clips.shape[-1]
        grid = self.settings.grid
        boxes = grid_boxes(grid, self.side, size).to(clips.device)  # (N, 3)
        shape = (num_frames * len(boxes), 3)
        draws = key.uniform(shape[0] * shape[1], "patch jitter").unflatten(1, shape)
        low, high = self.settings.jitter
        share = low + (high - low) * draws[..., 2]  # (B, T*N)
        side = self.side * share
        corner = (
            boxes[:, :2].repeat(num_frames, 1) + (self.side - side).unsqueeze(2) * draws[..., :2]
        )
        cut = torch.cat([corner, side.unsqueeze(2)], dim=2).unflatten(1, (num_frames, -1))
        return cut_patches(clips, cut, self.side)

    def _steps(self, nodes: Tensor, key: MaskKey) -> tuple[Tensor, Tensor]:
        """Return how likely a walker goes from each patch to those of the next frame, and from each
        of the next frame's back, (B, T - 1, N, N) both; some edges are taken away."""
        alike = nodes[:, :-1] @ nodes[:, 1:].mT / self.settings.temperature
        return tuple(  # type: ignore[return-value]
            self._thinned(edges, key, way).softmax(-1)
            for way, edges in (("there", alike), ("back", alike.mT))
        )

    def _thinned(self, edges: Tensor, key: MaskKey, way: str) -> Tensor:
        """Take edges away, but never all of a patch."""
        if not self.settings.edge_dropout or not self.training:
            return edges
        draws = key.uniform(edges[0].numel(), f"edge dropout {way}").view_as(edges)
        kept = draws >= self.settings.edge_dropout
        kept |= draws == draws.amax(-1, keepdim=True)
        return edges.masked_fill(~kept, -torch.inf)

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the first frame's patches, as the encoder sees them."""
        clips = batch["views"][PLAIN_VIEW][0]
        key = MaskKey(self.seed, batch["epoch"], batch["sample_id"])
        patches = self.to_rgb(self.patches(clips, key)[:, 0].float())
        rows = patches.unflatten(1, (self.settings.grid, -1))  # (B, g, g, 3, p, p)
        return {"patches": rows.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)}


def round_trips(there: Tensor, back: Tensor) -> list[Tensor]:
    """Walk from the first frame to each later one and back.

    Args:
        there: Chances of each step to the next frame, (B, T - 1, N, N).
        back: Of each step back from it.

    Returns:
        T - 1 of (B, N, N): the chance to end at a patch, by where the walk began.
    """
    walks = []
    out = home = torch.eye(there.shape[-1], device=there.device, dtype=there.dtype)
    for step in range(there.shape[1]):
        out = out @ there[:, step]
        home = back[:, step] @ home
        walks.append(out @ home)
    return walks


def returning(walk: Tensor) -> Tensor:
    """Return the cross entropy of walks that return, mean over where they begin, (B,)."""
    chance = walk.diagonal(dim1=1, dim2=2)
    return -chance.clamp(min=_FLOOR).log().mean(1)
