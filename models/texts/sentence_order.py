"""Which of two segments of a text comes first (Lan 2020, ALBERT, arXiv:1909.11942, section 3.1;
after BERT's next sentence, arXiv:1810.04805).

A text is cut in two, and the halves are shown in their order or swapped. Both are of one text, so
its subject tells nothing, as it does where the second half is of another one.

It cannot collapse, as the answer is drawn. It cheats by the text's ends: a sentence ends with a
full stop, and may begin with words that nothing else does. The outermost words are left out
therefore, though a long sentence betrays itself by its grammar all the same, and should.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from augment.masking import MaskKey
from augment.recipe import AnyViews
from augment.texts.segments import segments
from models.blocks.pretext import classification
from models.encoders.factory import EncoderConfig
from models.method import Batch, MethodConfig
from models.texts.text_method import TextMethod


class SentenceOrderConfig(MethodConfig):
    """Settings of the order of segments."""

    name: Literal["sentence_order"] = "sentence_order"
    trim: int = Field(
        default=1, ge=0, description="words left out at either end of a text, which tell the order"
    )


class SentenceOrder(TextMethod):
    """A transformer that tells which segment comes first.

    Raises:
        ValueError: the encoder's tokens do not see each other.
    """

    Config: ClassVar[type[MethodConfig]] = SentenceOrderConfig
    small: ClassVar[MethodConfig] = SentenceOrderConfig()
    accumulates: ClassVar[bool] = True

    def __init__(
        self, config: SentenceOrderConfig, encoder_config: EncoderConfig, views: AnyViews, seed: int
    ) -> None:
        super().__init__(config, encoder_config, views, seed)
        self.encoder.require("tokens", by="method.name=sentence_order")
        self.trim = config.trim
        self.tell = nn.Linear(self.encoder.embed_dim, 2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Tell the order.

        Returns:
            loss: Cross entropy, nats, mean over the global batch's valid texts of enough words;
                log 2 at chance.
            order_top1: Share of them that are told right; a half at chance.
            embedding: Of the text in its two segments (B, D), detached.
        """
        key = MaskKey(self.seed, batch["epoch"], batch["sample_id"])
        cut = segments(self.texts(batch), self.trim, key)
        embedding = self.encoder(cut.tokens)
        logits = self.tell(embedding).unsqueeze(1)
        valid = batch["valid"] & cut.asked
        loss, right = classification(logits, cut.swapped.unsqueeze(1), valid)
        return {"loss": loss, "order_top1": right, "embedding": embedding.detach()}
