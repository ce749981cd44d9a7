"""wav2vec 2.0 (Baevski 2020, arXiv:2006.11477).

Spans of a window's moments are hidden from a transformer, which must tell the hidden moment's own
target among those of other hidden moments of the same utterance. Targets are entries of learnt code
books that Gumbel softmax chooses by the moment's own convolutions: what is said, not how the
microphone hissed.

It collapses where all moments choose one entry, as then nothing is to be told: the diversity loss
asks that a batch uses all entries. It cheats where spans are so short that a neighbour's
convolutions have heard the hidden moment, and learns nothing of windows of silence.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.recipe import AnyViews
from augment.rng import uniform
from augment.sound.log_mel import heat
from models.audio.sound_method import PICTURE_PX, WINDOWS, SoundMethod
from models.collectives import all_reduce_sum, global_mean
from models.encoders.encoder import Hidden
from models.encoders.factory import EncoderConfig
from models.method import Batch, MethodConfig


class Wav2Vec2Config(MethodConfig):
    """Settings of wav2vec 2.0; the defaults are the paper's."""

    name: Literal["wav2vec2"] = "wav2vec2"
    mask_prob: float = Field(
        default=0.065, gt=0, le=1, description="probability that a hidden span begins at a moment"
    )
    mask_length: int = Field(default=10, ge=1, description="moments of a hidden span")
    num_groups: int = Field(default=2, ge=1, description="code books")
    num_entries: int = Field(default=320, ge=2, description="entries of each code book")
    code_dim: int = Field(
        default=256, ge=2, description="features of a target, shared out among the code books"
    )
    num_distractors: int = Field(
        default=100, ge=1, description="other hidden moments of the utterance, drawn for each"
    )
    temperature: float = Field(default=0.1, gt=0, description="divides the cosine similarities")
    diversity_weight: float = Field(default=0.1, ge=0, description="of the diversity loss")
    gumbel_start: float = Field(default=2.0, gt=0, description="Gumbel temperature at first")
    gumbel_end: float = Field(default=0.5, gt=0, description="Gumbel temperature at the end")


class Wav2Vec2(SoundMethod):
    """Transformer over partly hidden moments, code books, and InfoNCE within each utterance.

    Raises:
        ValueError: the encoder does not encode moment by moment, or reads in order alone; windows
            are too short; or the code books do not share out `code_dim`.
    """

    Config: ClassVar[type[MethodConfig]] = Wav2Vec2Config
    small: ClassVar[MethodConfig] = Wav2Vec2Config(
        mask_length=3, num_entries=8, code_dim=16, num_distractors=10, temperature=0.5
    )
    accumulates: ClassVar[bool] = False

    def __init__(
        self, config: Wav2Vec2Config, encoder_config: EncoderConfig, views: AnyViews, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        by = "method.name=wav2vec2"
        self.encoder.require("latents", by)
        if self.encoder.supports("latents_in_order"):
            raise ValueError(
                f"encoder.name={self.encoder.name} reads in order alone, and {by} hides spans from"
                " both sides: take wave_transformer or wave_transformer_small"
            )
        if config.code_dim % config.num_groups:
            raise ValueError(
                f"method.code_dim={config.code_dim} must be a multiple of"
                f" method.num_groups={config.num_groups}"
            )
        with torch.no_grad():
            self.moments = self.encoder.latents(torch.zeros(1, views.size)).shape[1]
        if self.moments < 2 * config.mask_length:
            raise ValueError(
                f"views.size={views.size} gives {self.moments} moments, too few for"
                f" method.mask_length={config.mask_length}: take longer windows"
            )
        self.settings = config
        dim = self.encoder.embed_dim
        self.mask_token = nn.Parameter(torch.rand(dim))
        self.choose = nn.Linear(dim, config.num_groups * config.num_entries)
        # wide, as the authors': of near equal scores Gumbel's noise alone would choose
        nn.init.normal_(self.choose.weight)
        nn.init.zeros_(self.choose.bias)
        self.entries = nn.Parameter(
            torch.rand(config.num_groups, config.num_entries, config.code_dim // config.num_groups)
        )
        self.target_projection = nn.Linear(config.code_dim, config.code_dim)
        self.prediction_head = nn.Linear(dim, config.code_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell each hidden moment's target among the utterance's.

        Returns:
            loss: The contrastive loss, nats, and `diversity_weight` times the diversity loss; means
                over the global batch's valid samples.
            contrastive: The first; log(1 + num_distractors) at chance.
            code_perplexity: Entries in use in a code book, as the batch's mean choice has it, from
                1, which is collapse, to `num_entries`.
            target_top1: Share of hidden moments whose target scores best.
            embedding: The mean of the contexts of the whole window (B, D), detached; rows of
                invalid samples included.
        """
        windows = batch["views"][WINDOWS][0]
        valid = batch["valid"]
        latents = self.encoder.latents(windows)  # (B, T, D)
        mask = self._mask(batch)  # (B, T)
        context = self.encoder.contextual(latents, Hidden(mask, self.mask_token))
        with torch.autocast(windows.device.type, enabled=False):
            codes, shares, entry = self._quantised(latents.float(), batch)
            predicted = self.prediction_head(context.float())
            targets = self.target_projection(codes)
            scores = self._scores(predicted, targets, entry, mask, batch)
            per_moment = scores.logsumexp(dim=2) - scores[..., 0]  # (B, T)
            hidden = mask.float()
            per_sample = (per_moment * hidden).sum(1) / hidden.sum(1).clamp(min=1)
            contrastive = global_mean(per_sample, valid)
            counted = hidden * valid.unsqueeze(1)
            diversity, perplexity = self._diversity(shares, counted)
            loss = contrastive + self.settings.diversity_weight * diversity
        with torch.no_grad():
            best = (scores.argmax(dim=2) == 0).float()
            top1 = (best * counted).sum() / counted.sum().clamp(min=1)
            embedding = self.encoder.contextual(latents.detach()).mean(dim=1)
        return {
            "loss": loss,
            "contrastive": contrastive.detach(),
            "code_perplexity": perplexity.detach(),
            "target_top1": top1,
            "embedding": embedding.detach(),
        }

    def _draw(self, batch: Batch, op: str, num: int) -> Tensor:
        """Draw uniform numbers of each sample, (B, num)."""
        keys = {"epoch": batch["epoch"], "sample_id": batch["sample_id"]}
        return uniform(num, seed=self.seed, view=0, op=op, **keys)

    def _mask(self, batch: Batch) -> Tensor:
        """Hide spans that begin at drawn moments, one at least, (B, T) bool."""
        length = self.settings.mask_length
        places = self.moments - length + 1
        u = self._draw(batch, "wav2vec2.mask", places)
        begins = (u < self.settings.mask_prob) | (u == u.amin(dim=1, keepdim=True))
        padded = functional.pad(begins.float(), (length - 1, length - 1))
        return functional.max_pool1d(padded.unsqueeze(1), length, stride=1).squeeze(1) > 0

    def _quantised(self, latents: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Choose entries for moments (B, T, D).

        Returns:
            Codes (B, T, code_dim), through which the gradient of the soft choice flows; soft
            choices without noise (B, T, groups, entries); and the entries chosen, as one number for
            all groups (B, T) int64.
        """
        config = self.settings
        logits = self.choose(latents).unflatten(2, (config.num_groups, config.num_entries))
        shares = logits.softmax(dim=3)
        noisy = logits
        if self.training:
            numbers = self._draw(batch, "wav2vec2.gumbel", logits[0].numel()).view_as(logits)
            noisy = logits - (-(numbers.clamp(1e-6, 1 - 1e-6)).log()).log()
        ratio = config.gumbel_end / config.gumbel_start
        temperature = config.gumbel_start * torch.pow(
            torch.full_like(self.progress, ratio), self.progress
        )
        soft = (noisy / temperature).softmax(dim=3)
        entry = noisy.argmax(dim=3)  # (B, T, groups)
        hard = functional.one_hot(entry, config.num_entries).to(soft.dtype)
        chosen = hard + soft - soft.detach()
        codes = torch.einsum("btge,gec->btgc", chosen, self.entries.float()).flatten(2)
        digits = config.num_entries ** torch.arange(config.num_groups, device=entry.device)
        return codes, shares, (entry * digits).sum(dim=2)

    def _scores(
        self, predicted: Tensor, targets: Tensor, entry: Tensor, mask: Tensor, batch: Batch
    ) -> Tensor:
        """Compare each moment's prediction with its target and with distractors, of which those of
        the same entries are none.

        Args:
            predicted: (B, T, C).
            targets: (B, T, C).
            entry: (B, T), which entries the targets are of.
            mask: (B, T) bool, hidden moments: distractors are drawn from those of the sample.
            batch: Whose keys draw them.

        Returns:
            (B, T, 1 + K) similarities divided by the temperature, the target's own first.
        """
        count = self.settings.num_distractors
        moments = mask.shape[1]
        order = torch.argsort(~mask, dim=1, stable=True)  # hidden ones first
        hidden = mask.sum(dim=1).view(-1, 1, 1)
        u = self._draw(batch, "wav2vec2.distractors", moments * count).view(-1, moments, count)
        drawn = order.gather(1, (u * hidden).long().flatten(1)).view_as(u)  # (B, T, K)
        predicted, targets = (functional.normalize(x, dim=2) for x in (predicted, targets))
        similarity = predicted @ targets.transpose(1, 2)  # (B, T, T)
        own = similarity.diagonal(dim1=1, dim2=2).unsqueeze(2)
        others = similarity.gather(2, drawn)
        same = entry.gather(1, drawn.flatten(1)).view_as(drawn) == entry.unsqueeze(2)
        scores = torch.cat([own, others.masked_fill(same, -math.inf)], dim=2)
        return scores / self.settings.temperature

    def _diversity(self, shares: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the share of entries that the global batch leaves unused, and the perplexity of
        its mean choice.

        Args:
            shares: (B, T, groups, entries).
            weight: (B, T), 1 for what counts.
        """
        summed = all_reduce_sum((shares * weight[..., None, None]).sum(dim=(0, 1)))
        total = all_reduce_sum(weight.sum())
        mean = summed / total.clamp(min=1)  # (groups, entries)
        entropy = -(mean * (mean + 1e-7).log()).sum(dim=1)
        perplexity = entropy.exp().mean()
        used = (total > 0).float()
        return used * (1 - perplexity / self.settings.num_entries), perplexity

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Draw the windows, and how like each moment's prediction (a row) is to each target, where
        hidden moments are bright above."""
        latents = self.encoder.latents(batch["views"][WINDOWS][0])
        mask = self._mask(batch)
        context = self.encoder.contextual(latents, Hidden(mask, self.mask_token))
        codes, _, _ = self._quantised(latents, batch)
        predicted, targets = (
            functional.normalize(projected, dim=2)
            for projected in (self.prediction_head(context), self.target_projection(codes))
        )
        similarity = predicted @ targets.transpose(1, 2)
        return {
            "heard": self.heard(batch),
            "hidden": heat(mask.float().unsqueeze(1), PICTURE_PX),
            "like each target": heat(similarity, PICTURE_PX),
        }
