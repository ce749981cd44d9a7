"""Skip-gram with negative sampling (Mikolov 2013, arXiv:1301.3781, arXiv:1310.4546).

A word is to tell the words around it from noise: its vector is compared with one of a true
neighbour and with some of words that are drawn by how frequent they are, to the power of 0.75.
What is known by the same company comes to lie together. Vectors of the neighbours are a second
table, which is thrown away: one table would push a word away from itself.

It cannot collapse, as the noise forbids it. It wastes itself on frequent words, of which most pairs
are then left out, and an average of vectors knows nothing of the order of words.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.masking import MaskKey
from augment.recipe import AnyViews
from augment.texts.word_pairs import WordPairs, near_words
from models.collectives import global_mean
from models.encoders.factory import EncoderConfig
from models.method import Batch, MethodConfig
from models.texts.text_method import TextMethod
from models.texts.token_counts import TokenCounts


class SkipGramConfig(MethodConfig):
    """Skip-gram's settings; the defaults are the paper's for small corpora."""

    name: Literal["skipgram"] = "skipgram"
    window: int = Field(default=5, ge=1, description="words from one to the other at most")
    pairs: int = Field(default=64, ge=1, description="pairs of words drawn of each text and step")
    negatives: int = Field(default=5, ge=1, description="words of noise beside each true one")
    noise_power: float = Field(
        default=0.75, ge=0, le=1, description="of a word's share of the texts: how likely as noise"
    )
    subsample: float = Field(
        default=1e-3,
        gt=0,
        le=1,
        description=(
            "share of all words above which a word's pairs are left out, the more the more frequent"
            " it is: of a share f, sqrt(subsample / f) of them stay"
        ),
    )


class SkipGram(TextMethod):
    """Word vectors that tell their neighbours from noise.

    Raises:
        ValueError: the encoder has no vectors of words.
    """

    Config: ClassVar[type[MethodConfig]] = SkipGramConfig
    small: ClassVar[MethodConfig] = SkipGramConfig(pairs=8, negatives=3, subsample=1.0)
    accumulates: ClassVar[bool] = True

    def __init__(
        self, config: SkipGramConfig, encoder_config: EncoderConfig, views: AnyViews, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("words", by="method.name=skipgram")
        self.settings = config
        vocab_size = encoder_config.text.vocab_size
        self.near = nn.Embedding(vocab_size, self.encoder.embed_dim)
        nn.init.normal_(self.near.weight, std=self.near.embedding_dim**-0.5)
        self.seen = TokenCounts(vocab_size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell neighbours from noise.

        Returns:
            loss: Nats of a pair, its words of noise with it: mean over a text's pairs and over the
                global batch's valid texts that have any; (1 + negatives) * log 2 at chance.
            near_top1: Share of pairs whose true word is told before all of its noise; 1 / (1 +
                negatives) at chance.
            embedding: Mean vector of the words (B, D), detached.
        """
        tokens = self.texts(batch)
        key = MaskKey(self.seed, batch["epoch"], batch["sample_id"])
        self.seen.see(tokens, batch["valid"])
        pairs, noise = self.drawn(tokens, key)
        found = self.encoder.tokens(tokens)
        index = pairs.middle.unsqueeze(2).expand(-1, -1, self.encoder.embed_dim)
        middle = found.patches.gather(1, index)  # (B, P, D)
        true = self.near(tokens.gather(1, pairs.near))
        with torch.autocast(tokens.device.type, enabled=False):
            middle = middle.float()
            hits = (middle * true.float()).sum(dim=2)  # (B, P)
            misses = torch.einsum("bpd,bpkd->bpk", middle, self.near(noise).float())
            per_pair = negative_sampling(
                hits, misses, noise == tokens.gather(1, pairs.near)[..., None]
            )
        counts = pairs.counts
        per_text = (per_pair * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
        right = (hits.detach() > misses.detach().amax(dim=2)).float()
        valid = batch["valid"]
        return {
            "loss": global_mean(per_text, valid & counts.any(dim=1)),
            "near_top1": global_mean(right.flatten(), (counts & valid.unsqueeze(1)).flatten()),
            "embedding": self.encoder.pool(found).detach(),
        }

    def drawn(self, tokens: Tensor, key: MaskKey) -> tuple[WordPairs, Tensor]:
        """Draw the pairs of texts (B, L), and noise beside each, (B, P, K) tokens."""
        settings = self.settings
        pairs = near_words(tokens, settings.pairs, settings.window, key)
        stays = (settings.subsample / self.seen.shares()).sqrt()  # (V,)
        counts = pairs.counts
        for name, place in (("middle", pairs.middle), ("near", pairs.near)):
            chance = stays[tokens.gather(1, place)]
            counts = counts & (key.uniform(settings.pairs, f"{name} words that stay") < chance)
        draws = key.uniform(settings.pairs * settings.negatives, "noise")
        noise = self.seen.noise(draws, settings.noise_power)
        return pairs._replace(counts=counts), noise.unflatten(1, (settings.pairs, -1))

    def after_step(self, step: int, num_steps: int) -> None:
        """Count the words of the step."""
        super().after_step(step, num_steps)
        self.seen.after_step()


def negative_sampling(hits: Tensor, misses: Tensor, same: Tensor) -> Tensor:
    """Tell a true word from words of noise, each by itself (arXiv:1310.4546, eq. 4).

    Args:
        hits: Inner product of a word's vector with the true one's, (...), float32.
        misses: With those of K words of noise, (..., K).
        same: Which of these are the true word after all, (..., K) bool: they are left out.

    Returns:
        Nats, (...); (1 + K) * log 2 where all products are 0.
    """
    fooled = functional.softplus(misses).masked_fill(same, 0.0)
    return functional.softplus(-hits) + fooled.sum(dim=-1)
