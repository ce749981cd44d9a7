"""DeepCluster (Caron 2018, arXiv:1807.05520).

Cluster the features of the corpus by k-means, learn to predict each image's cluster, cluster again:
the features of a random network are good enough to begin with, and each round gives the next better
ones. It collapses in two ways, both seen to here: a cluster that runs empty never comes back (it
gets half of another), and most images in few clusters make a constant answer good (the loss weighs
every cluster alike, as if samples were drawn uniformly over clusters, while the plan keeps reading
each once). It cheats by colour, for which the paper feeds edges: `greyscale.p=1` and `sobel.p=1` in
the views do. That is not the default, as whoever uses the encoder must then filter alike.

The paper passes over the corpus once more before each epoch for the features; here they are kept as
training computes them. Labels are those of one clustering until a step's global batch holds a
sample of a later epoch: after that step all features kept are clustered anew, and the classifier
starts again. So it is a function of the stream of steps, and a resumed run clusters after the same
step. In the first epoch it happens as soon as `first_rows` samples are kept, before which there is
nothing to learn; a sample that no clustering has seen yet (in the first epoch, or new in the
manifest) is given the centroid nearest to its present features.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.recipe import CropGroup, Views
from models.blocks.bank import MAX_ROWS, Bank, check_room
from models.clustering.k_means import k_means, mutual_information, pca_whitening
from models.collectives import broadcast, gather, global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, Method, MethodConfig, ViewGroups
from models.steps.sharding import laid_out

_GROUP = "global_crops"
_WHITENED_ROWS = 1 << 16  # at a time
_INIT_STD = 0.01  # of the classifier's weights, as the authors'


class DeepClusterConfig(MethodConfig):
    """DeepCluster's settings; the defaults are the paper's for ImageNet."""

    name: Literal["deepcluster"] = "deepcluster"
    num_clusters: int = Field(default=10_000, ge=2, description="clusters K, at most one a sample")
    pca_dim: int = Field(
        default=256, ge=1, description="whitened directions of the features that are clustered"
    )
    kmeans_iterations: int = Field(
        default=20, ge=1, description="rounds of k-means at each clustering"
    )
    first_rows: int = Field(
        default=100_000,
        ge=2,
        description=(
            "samples of the first epoch after which they are clustered, or its end; until then the"
            " loss is 0"
        ),
    )
    max_rows: int = Field(
        default=1 << 21,
        ge=1,
        le=MAX_ROWS,
        description=(
            "most rows of the manifest; each takes 2 * encoder features + 6 bytes on every worker,"
            " and 4 * pca_dim more while they are clustered"
        ),
    )

    def check_rows(self, num_rows: int) -> None:
        """Refuse a corpus whose features cannot be kept, or that has fewer samples than
        clusters."""
        check_room(num_rows, self.max_rows)
        if num_rows < self.num_clusters:
            raise ValueError(
                f"method.num_clusters must be at most the {num_rows} samples, got"
                f" {self.num_clusters}"
            )


class DeepCluster(Method):
    """Encoder, classifier, the features of the last pass, and the clusters they fell into."""

    Config: ClassVar[type[MethodConfig]] = DeepClusterConfig
    small: ClassVar[MethodConfig] = DeepClusterConfig(num_clusters=3, pca_dim=4, first_rows=6)
    view_groups: ClassVar[ViewGroups] = {_GROUP: 1}
    accumulates: ClassVar[bool] = False
    mean: Tensor
    whitening: Tensor
    centroids: Tensor
    cluster_weight: Tensor
    epoch: Tensor
    clusterings: Tensor
    stability: Tensor

    @staticmethod
    def default_views(size: int) -> Views:
        """Make the single crop and flip of the paper (section 3.3), colours untouched.

        The paper also turns images into edges, which `greyscale` and `sobel` with `p=1` do.
        """
        return Views(size=size, groups={_GROUP: CropGroup()})

    def __init__(
        self, config: DeepClusterConfig, encoder_config: EncoderConfig, views: Views, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.settings = config
        dim = self.encoder.embed_dim
        num_clusters = config.num_clusters
        pca_dim = min(config.pca_dim, dim)
        self.classifier = nn.Linear(dim, num_clusters)
        self.features = Bank(dim, torch.float16)  # of each row, as of the last step that saw it
        # each row's cluster; not filled where the last clustering had no features
        self.labels = Bank(1, torch.int32)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("whitening", torch.zeros(dim, pca_dim))
        self.register_buffer("centroids", torch.zeros(num_clusters, pca_dim))
        self.register_buffer("cluster_weight", torch.zeros(num_clusters))
        # the newest that a step has seen
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("clusterings", torch.zeros((), dtype=torch.int64))
        self.register_buffer("stability", torch.zeros(()))
        # The step's rows, features, valid and epochs of all workers, for after_step.
        self._seen: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def expect_rows(self, num_rows: int) -> None:
        """Make room for features and labels of new rows of the manifest."""
        for bank in (self.features, self.labels):
            bank.grow(bank.rows.new_zeros(max(0, num_rows - len(bank.rows)), bank.rows.shape[1]))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predict each image's cluster.

        Returns:
            loss: Cross entropy, nats, mean over the global batch's valid samples, each weighted by
                the inverse size of its cluster (1 on average over the corpus); log K at chance.
                Zero before the first clustering.
            cluster_top1: Fraction of this worker's samples that are given their cluster.
            stability: Normalised mutual information of the last two clusterings, 0 to 1; the
                paper's figure 2b.
            embedding: The encoder's output (B, D), detached; rows of invalid samples included.
        """
        row = batch["row"]
        valid = batch["valid"]
        embedding = self.encoder(batch["views"][_GROUP][0])  # (B, D)
        with torch.autocast(embedding.device.type, enabled=False):
            features = embedding.float()
            label = self._label(features.detach(), row)
            logits = self.classifier(features)  # (B, K)
            entropy = (
                functional.cross_entropy(logits, label, reduction="none")
                * self.cluster_weight[label]
            )
            loss = global_mean(entropy, valid & (self.clusterings > 0))
        self._seen = gather(row), gather(features.detach()), gather(valid), gather(batch["epoch"])
        hits = (logits.detach().argmax(1) == label) & valid & (self.clusterings > 0)
        return {
            "loss": loss,
            "cluster_top1": hits.sum() / valid.sum().clamp(min=1),
            "stability": self.stability.clone(),
            "embedding": embedding.detach(),
        }

    @torch.no_grad()
    def _label(self, features: Tensor, row: Tensor) -> Tensor:
        """Return each sample's cluster (B,) int64: the last clustering's, or else the nearest."""
        points = self._whiten(features)
        # (B, K), but for |points|^2
        distance = self.centroids.square().sum(1) - 2 * points @ self.centroids.T
        nearest = distance.masked_fill(self.cluster_weight == 0, torch.inf).argmin(1)
        return torch.where(self.labels.filled[row], self.labels.rows[row, 0].long(), nearest)

    def _whiten(self, features: Tensor) -> Tensor:
        return functional.normalize((features - self.mean) @ self.whitening, dim=1)

    @torch.no_grad()
    def after_step(self, step: int, num_steps: int) -> None:
        """Keep the step's features, and cluster where an epoch has ended."""
        super().after_step(step, num_steps)
        if self._seen is None:
            return
        row, features, valid, epoch = self._seen
        self._seen = None
        self.features.put(row, _halved(features), valid)
        newest = torch.maximum(self.epoch, epoch.amax())
        ended = newest > self.epoch
        first = (self.clusterings == 0) & (self.features.filled.sum() >= self.settings.first_rows)
        if bool(ended | first):  # the one time in a step that the device is waited for
            self._cluster()
            if bool(ended):  # the next pass may not see a sample again: it may be gone
                self.features.filled.zero_()
                self.features.put(row, _halved(features), valid & (epoch == newest))
        self.epoch.copy_(newest)

    def _cluster(self) -> None:
        """Cluster all features kept, label their samples, and start the classifier again; alike on
        all workers.

        Each compares its share of the samples with the centroids. The optimiser's averages of the
        old classifier fade over the next steps, as nobody resets them.
        """
        row = self.features.filled.nonzero().squeeze(1)  # (N,)
        if len(row) < 2:
            return
        label = self._find_clusters(self.features.rows[row])
        known = self.labels.filled[row]
        if known.any():
            self.stability.copy_(
                mutual_information(self.labels.rows[row[known], 0].long(), label[known])
            )
        self.labels.filled.zero_()
        self.labels.rows[row, 0] = label.to(self.labels.rows)
        self.labels.filled[row] = True
        sizes = torch.bincount(label, minlength=len(self.centroids))
        self.cluster_weight.copy_((len(row) / ((sizes > 0).sum() * sizes)).where(sizes > 0, 0.0))
        self.clusterings += 1
        generator = torch.Generator().manual_seed(self._key())
        weight = torch.randn(self.classifier.weight.shape, generator=generator)
        self.classifier.weight.copy_(laid_out(weight * _INIT_STD, self.classifier.weight))
        self.classifier.bias.zero_()

    def _find_clusters(self, features: Tensor) -> Tensor:
        """Set the whitening and the centroids; gives each feature's cluster, (N,) int64."""
        mean, whitening = pca_whitening(features, self.whitening.shape[1])
        # equal sums, but perhaps not to the last bit equal directions of them
        self.mean.copy_(broadcast(mean))
        self.whitening.copy_(broadcast(whitening))
        parts = [self._whiten(part.float()) for part in features.split(_WHITENED_ROWS)]
        points = torch.cat(parts)  # (N, P)
        num_clusters = min(len(self.centroids), len(points))
        iterations = self.settings.kmeans_iterations
        centroids, label = k_means(points, num_clusters, iterations=iterations, seed=self._key())
        self.centroids[:num_clusters] = centroids.to(self.centroids)
        return label

    def _key(self) -> int:
        """Return the key of a clustering's draws."""
        return (self.seed * 1_000_003 + int(self.clusterings)) % 2**31


def _halved(features: Tensor) -> Tensor:
    """Keep features within what half precision holds."""
    largest = torch.finfo(torch.float16).max
    return features.clamp(-largest, largest)
