"""Sound as a label (Owens 2016, arXiv:1608.07017).

What is heard beside a frame is summed up by statistics of its texture, these are clustered once,
and the frame alone must tell the cluster. So places and things that sound alike come near each
other: what a sea or a crowd looks like is learnt from how it sounds.

It cannot collapse, as the clusters do not follow the encoder; but where most sounds are alike, a
constant answer is a good one (`largest_cluster` says how good). It cheats by what tells a recording
from others, loudness and hiss: one camera's pictures and its noise go together.

The paper clusters the sounds of its whole corpus beforehand. Here those of the first steps are
kept, and clustered after the step that fills what is kept or begins the second epoch; until then
there is nothing to learn. From then on clusters stay, and a sample's is that of the sound around
the very frame that was drawn.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from augment.presets import PLAIN_VIEW, plain_views
from augment.recipe import Views
from augment.sound import sound_texture
from augment.sound.log_mel import heat
from models.blocks.pretext import classification
from models.clustering.k_means import k_means
from models.collectives import broadcast, gather
from models.encoders.factory import EncoderConfig
from models.method import Batch, MethodConfig, ViewGroups
from models.multimodal.soundtrack_method import SoundtrackConfig, SoundtrackMethod

PICTURE_PX = 112
_LEAST = 1e-6  # deviation of a statistic that says something


class SoundConfig(SoundtrackConfig):
    """Settings of predicting sound; the defaults are the paper's, but for `first_rows`."""

    name: Literal["sound"] = "sound"
    num_clusters: int = Field(default=30, ge=2, description="clusters K of sounds")
    first_rows: int = Field(
        default=20_000,
        ge=2,
        le=1 << 20,
        description=(
            "sounds that are kept, 1 KB each, and clustered; fewer where the second epoch begins"
            " before. Until then the loss is 0"
        ),
    )
    kmeans_iterations: int = Field(default=50, ge=1, description="rounds of k-means")

    def check_rows(self, num_rows: int) -> None:
        """Refuse a corpus that has fewer samples than clusters."""
        if num_rows < self.num_clusters:
            raise ValueError(
                f"method.num_clusters must be at most the {num_rows} samples, got"
                f" {self.num_clusters}"
            )


class Sound(SoundtrackMethod):
    """Encoder of frames, classifier, and clusters of sounds.

    Raises:
        ValueError: fewer sounds are kept than there are clusters.
    """

    Config: ClassVar[type[MethodConfig]] = SoundConfig
    small: ClassVar[MethodConfig] = SoundConfig(
        num_clusters=3, first_rows=6, sound_s=0.25, sound_rate=8_000
    )
    view_groups: ClassVar[ViewGroups] = {PLAIN_VIEW: 1}
    accumulates: ClassVar[bool] = True
    kept: Tensor
    num_kept: Tensor
    mean: Tensor
    scale: Tensor
    centroids: Tensor
    shares: Tensor

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the paper's crop of most of a frame, perhaps mirrored: a sound has no side."""
        return plain_views(size, (0.6, 1.0))

    def __init__(
        self, config: SoundConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        if config.first_rows < config.num_clusters:
            raise ValueError(
                f"method.first_rows={config.first_rows} must be at least"
                f" method.num_clusters={config.num_clusters}"
            )
        self.settings = config
        dim = sound_texture.NUM_STATISTICS
        self.classifier = nn.Linear(self.encoder.embed_dim, config.num_clusters)
        kept = torch.zeros(config.first_rows, dim, dtype=torch.float16)
        self.register_buffer("kept", kept)
        self.register_buffer("num_kept", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.zeros(dim))
        self.register_buffer("centroids", torch.zeros(config.num_clusters, dim))
        self.register_buffer("shares", torch.zeros(config.num_clusters))  # 0: there is no such one
        # of the step's micro-batches: statistics, valid and epochs of all workers
        self._seen = list[tuple[Tensor, Tensor, Tensor]]()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the cluster of each frame's sound.

        Returns:
            loss: Cross entropy, nats, mean over the global batch's valid samples; log K at chance.
                Zero before sounds are clustered.
            cluster_top1: Share of valid samples that are given their cluster.
            largest_cluster: Share of the sounds kept that are in the largest cluster.
            embedding: The encoder's output (B, D), detached; rows of invalid samples included.
        """
        embedding = self.encoder(batch["views"][PLAIN_VIEW][0])  # (B, D)
        valid = batch["valid"]
        with torch.autocast(embedding.device.type, enabled=False):
            statistics = self._statistics(batch)
            label = self._label(statistics)
            logits = self.classifier(embedding.float())
            known = valid & (self.shares > 0).any()
            loss, top1 = classification(logits.unsqueeze(1), label.unsqueeze(1), known)
        if self.training:
            self._seen.append((gather(statistics), gather(valid), gather(batch["epoch"])))
        return {
            "loss": loss,
            "cluster_top1": top1,
            "largest_cluster": self.shares.amax(),
            "embedding": embedding.detach(),
        }

    @torch.no_grad()
    def _statistics(self, batch: Batch) -> Tensor:
        """Sum up the sound of each sample, (B, S) float32."""
        return sound_texture.texture(self.heard(batch)[:, 0], self.settings.sound_rate)

    @torch.no_grad()
    def _label(self, statistics: Tensor) -> Tensor:
        """Return the nearest cluster of each sound, (B,) int64."""
        points = (statistics - self.mean) * self.scale
        # (B, K), but for |points|^2
        distance = self.centroids.square().sum(1) - 2 * points @ self.centroids.T
        return distance.masked_fill(self.shares == 0, torch.inf).argmin(1)

    @torch.no_grad()
    def after_step(self, step: int, num_steps: int) -> None:
        """Keep the step's sounds, and cluster them once there are enough."""
        super().after_step(step, num_steps)
        seen, self._seen = self._seen, []
        if not seen or bool((self.shares > 0).any()):
            return
        statistics, valid, epoch = (torch.cat(parts) for parts in zip(*seen, strict=True))
        begun = int(self.num_kept)
        new = statistics[valid][: len(self.kept) - begun]
        self.kept[begun : begun + len(new)] = new.half()
        self.num_kept += len(new)
        full = int(self.num_kept) == len(self.kept)
        # how small batches are, nothing is clustered in which each sound is its own cluster
        enough = int(self.num_kept) >= len(self.centroids)
        if full or (enough and int(epoch.amax()) > 0):
            self._cluster(self.kept[: int(self.num_kept)].float())

    def _cluster(self, statistics: Tensor) -> None:
        """Cluster sounds (N, S), kinds of statistics weighing alike; the same on all workers."""
        deviation, mean = torch.std_mean(statistics, dim=0, correction=0)
        weight = torch.cat([mean.new_full((count,), count**-0.5) for count in sound_texture.GROUPS])
        self.mean.copy_(broadcast(mean))
        scale = (weight / deviation.clamp(min=_LEAST)).where(deviation > _LEAST, 0.0)
        self.scale.copy_(broadcast(scale))
        points = (statistics - self.mean) * self.scale
        count = len(self.centroids)
        rounds = self.settings.kmeans_iterations
        centroids, label = k_means(points, count, iterations=rounds, seed=self.seed)
        self.centroids.copy_(centroids)
        self.shares.copy_(torch.bincount(label, minlength=count) / len(label))

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the cochleagram of each frame's sound, low pitches below; and, once there are
        clusters, how likely each seems by the frame (above), beside which it is (below)."""
        sounds = self.heard(batch)[:, 0]
        heard = sound_texture.cochleagram(sounds, self.settings.sound_rate)
        drawn = {"heard": heat(heard.flip(1), PICTURE_PX)}
        if not bool((self.shares > 0).any()):
            return drawn
        logits = self.classifier(self.encoder(batch["views"][PLAIN_VIEW][0]))
        own = nn.functional.one_hot(self._label(self._statistics(batch)), logits.shape[1])
        rows = torch.stack([logits.softmax(dim=1), own.float()], dim=1)  # (B, 2, K)
        return drawn | {"cluster": heat(rows, PICTURE_PX)}
