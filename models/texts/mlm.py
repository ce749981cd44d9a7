"""Masked words (Devlin 2019, BERT, arXiv:1810.04805, task 1).

Some words of a text are hidden, and are told by the rest, from both sides. Of those asked for one
in ten stays as it is and one in ten is another word: what ships never sees the mask, and so must
have something to say of words that it does see.

It cannot collapse, as the words are given. A guess by frequency alone is right surprisingly often;
`unigram_top1` beside `masked_top1` tells what reading adds.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from augment.masking import MaskKey
from augment.recipe import AnyViews
from augment.texts.masked_words import mask_words
from models.collectives import global_mean
from models.encoders.encoder import Hidden
from models.encoders.factory import EncoderConfig
from models.method import Batch, MethodConfig
from models.texts.text_method import TextMethod
from models.texts.token_counts import TokenCounts


class MLMConfig(MethodConfig):
    """Masked words' settings; the defaults are the paper's."""

    name: Literal["mlm"] = "mlm"
    mask_ratio: float = Field(
        default=0.15, gt=0, lt=1, description="share of a text's words that are asked for"
    )


class MLM(TextMethod):
    """A transformer, a mask token, and a layer that tells words.

    Raises:
        ValueError: the encoder's tokens do not see each other.
    """

    Config: ClassVar[type[MethodConfig]] = MLMConfig
    small: ClassVar[MethodConfig] = MLMConfig(mask_ratio=0.3)
    accumulates: ClassVar[bool] = True

    def __init__(
        self, config: MLMConfig, encoder_config: EncoderConfig, views: AnyViews, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("tokens", by="method.name=mlm")
        self.mask_ratio = config.mask_ratio
        self.vocab_size = encoder_config.text.vocab_size
        width = self.encoder.embed_dim
        self.mask_token = nn.Parameter(torch.empty(width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.predict = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width),
            nn.Linear(width, self.vocab_size),
        )
        self.seen = TokenCounts(self.vocab_size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the hidden words.

        Returns:
            loss: Cross entropy, nats: mean over the words asked for of a text, and over the global
                batch's valid texts that have words.
            masked_top1: Share of all words asked for that are told.
            unigram_top1: Share of them that are the most frequent word so far.
            unigram_nats: Their cross entropy where words are told by frequency alone.
            embedding: Of the text with its hidden words (B, D), detached.
        """
        tokens = self.texts(batch)
        valid = batch["valid"]
        self.seen.see(tokens, valid)
        key = MaskKey(self.seed, batch["epoch"], batch["sample_id"])
        masked = mask_words(tokens, self.mask_ratio, self.vocab_size, key)
        found = self.encoder.tokens(masked.tokens, hidden=Hidden(masked.hidden, self.mask_token))
        index = masked.places.unsqueeze(2).expand(-1, -1, self.encoder.embed_dim)
        logits = self.predict(found.patches.gather(1, index)).float()  # (B, K, V)
        words = tokens.gather(1, masked.places)
        nats = functional.cross_entropy(logits.flatten(0, 1), words.flatten(), reduction="none")
        asked = masked.asked
        per_text = (nats.view_as(words) * asked).sum(dim=1) / asked.sum(dim=1).clamp(min=1)
        counts = (asked & valid.unsqueeze(1)).flatten()
        shares = self.seen.shares()

        def mean(values: Tensor) -> Tensor:
            return global_mean(values.float().flatten(), counts)

        return {
            "loss": global_mean(per_text, valid & asked.any(dim=1)),
            "masked_top1": mean(logits.detach().argmax(dim=2) == words),
            "unigram_top1": mean(words == shares.argmax()),
            "unigram_nats": mean(-shares[words].clamp(min=torch.finfo(torch.float32).tiny).log()),
            "embedding": self.encoder.pool(found).detach(),
        }

    def after_step(self, step: int, num_steps: int) -> None:
        """Count the words of the step."""
        super().after_step(step, num_steps)
        self.seen.after_step()
