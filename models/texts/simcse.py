"""SimCSE without labels (Gao 2021, arXiv:2104.08821).

A text must find itself among those of the whole global batch after two passes through the encoder
that differ in dropout alone: it is the least of all augmentations, as any change of words may
change what is said.

It cannot collapse, as the negatives forbid it. Without dropout both passes are one, and nothing is
learnt; and from random weights it has little to start from: the paper begins with a model of masked
words (`encoder.weights`).
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from augment.recipe import AnyViews
from models import health
from models.blocks.pretext import pair_top1
from models.collectives import world_size
from models.encoders.factory import EncoderConfig
from models.losses import info_nce
from models.method import Batch, MethodConfig
from models.texts.text_method import TextMethod


class SimCSEConfig(MethodConfig):
    """SimCSE's settings; the defaults are the paper's."""

    name: Literal["simcse"] = "simcse"
    temperature: float = Field(
        default=0.05, gt=0, description="divides the cosine similarities of texts"
    )


class SimCSE(TextMethod):
    """Two passes with other dropout, a head that training alone has, and InfoNCE.

    Raises:
        ValueError: the encoder's tokens do not see each other, or it leaves nothing out.
    """

    Config: ClassVar[type[MethodConfig]] = SimCSEConfig
    small: ClassVar[MethodConfig] = SimCSEConfig()
    accumulates: ClassVar[bool] = False

    def __init__(
        self, config: SimCSEConfig, encoder_config: EncoderConfig, views: AnyViews, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("tokens", by="method.name=simcse")
        if encoder_config.text.dropout == 0:
            raise ValueError(
                "encoder.text.dropout=0 makes both passes of method.name=simcse one: the paper's"
                " is 0.1"
            )
        self.temperature = config.temperature
        width = self.encoder.embed_dim
        self.projection_head = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Find each text's other pass.

        Returns:
            loss: Cross entropy over the global batch's valid texts, nats; log of their number at
                chance.
            info_nce_bound: Nats that both passes share, as the loss certifies.
            pass_top1: Share of this worker's texts whose other pass, of this worker's only, is the
                nearest; 1 / B at chance.
            embedding: Of the first pass (B, D), detached.
        """
        tokens = self.texts(batch)
        embedding = self.encoder(tokens.repeat(2, 1))  # (2 * B, D)
        first, second = self.projection_head(embedding).chunk(2)
        valid = batch["valid"]
        loss = info_nce(first, second, temperature=self.temperature, valid=valid)
        return {
            "loss": loss,
            "info_nce_bound": health.info_nce_bound(loss.detach(), world_size() * valid.sum()),
            "pass_top1": pair_top1(first, second, valid),
            "embedding": embedding[: len(tokens)].detach(),
        }
