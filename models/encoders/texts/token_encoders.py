"""Encoders of texts: a transformer over tokens, and a vector of each."""

import torch
from torch import Tensor, nn

from augment.texts.special_tokens import PAD, is_word
from models.encoders.encoder import Encoder, Feature, Hidden, Pooling, Tokens
from models.encoders.texts.keyed_dropout import KeyedDropout
from models.encoders.texts.text_settings import TRANSFORMER, TextSettings


class TokenEncoder(Encoder):
    """Embeds texts (B, L) int64, of start, words, end and padding, as (B, D).

    Features of a place that says nothing are zeros and have no part in an average.

    Args:
        settings: Its size.
        length: L, tokens of a text at most.
    """

    media = "text"

    def __init__(self, settings: TextSettings, length: int) -> None:
        super().__init__()
        self.embed_dim = settings.width
        self.grid = (1, length)
        self.words = nn.Embedding(settings.vocab_size, settings.width)

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return what an embedding can be: the mean of the tokens."""
        return ("auto", "mean")

    def forward(self, images: Tensor) -> Tensor:
        """Embed texts (B, L) as (B, D)."""
        return self.pool(self.tokens(images))

    def pool(self, features: Tensor | Tokens, pooling: Pooling | None = None) -> Tensor:
        """Make the embedding (B, D) of what `tokens` gave."""
        how = self.pooling if pooling is None else pooling
        self.check_pooling(how)
        assert isinstance(features, Tokens), "a text has no maps"
        if how == "class":
            assert features.cls is not None, "it has no class token"
            return features.cls
        patches = features.patches
        counts = patches.detach().ne(0).any(dim=2).sum(dim=1, keepdim=True)
        return patches.sum(dim=1) / counts.clamp(min=1)


class WordVectors(TokenEncoder):
    """A vector of each word; a text is the mean of its words (arXiv:1301.3781)."""

    def __init__(self, settings: TextSettings, length: int) -> None:
        super().__init__(settings, length)
        nn.init.normal_(self.words.weight, std=settings.width**-0.5)

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this: words by themselves."""
        return feature == "words"

    def tokens(
        self, images: Tensor, keep: Tensor | None = None, hidden: Hidden | None = None
    ) -> Tokens:
        """Look up the words of texts (B, L): (B, L, D), zeros where there is none."""
        assert keep is None and hidden is None, "a word does not see its neighbours"
        vectors = self.words(images) * is_word(images).unsqueeze(2)
        return Tokens(None, vectors[:, :0], vectors)


class TokenTransformer(TokenEncoder):
    """A transformer whose tokens see the whole text (arXiv:1810.04805), norms first.

    Raises:
        ValueError: the heads do not divide the width.
    """

    def __init__(self, settings: TextSettings, length: int) -> None:
        super().__init__(settings, length)
        width = settings.width
        if width % settings.num_heads:
            raise ValueError(
                f"encoder.text.num_heads {settings.num_heads} does not divide encoder.text.width"
                f" {width}"
            )
        self.positions = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
        self.drop = KeyedDropout(settings.dropout, "words")
        self.blocks = nn.ModuleList(
            _block(settings, str(number)) for number in range(settings.depth)
        )
        self.norm = nn.LayerNorm(width)

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Return what an embedding can be: the mean of the tokens, or the one at the start."""
        return (*super().poolings, "class")

    @property
    def depth(self) -> int:
        """Return the number of blocks."""
        return len(self.blocks)

    def supports(self, feature: Feature) -> bool:
        """Tell whether the encoder gives this: tokens that have seen each other."""
        return feature == "tokens"

    def tokens(
        self, images: Tensor, keep: Tensor | None = None, hidden: Hidden | None = None
    ) -> Tokens:
        """Encode texts (B, L) as tokens (B, L, D), zeros behind the end; `cls` is the start's."""
        assert keep is None, "words are not left out, but hidden"
        for part in self.modules():
            if isinstance(part, KeyedDropout):
                part.key = self.token_key
        features = self.words(images)
        if hidden is not None:
            features = torch.where(
                hidden.mask.unsqueeze(2), hidden.token.to(features.dtype), features
            )
        features = self.drop(features + self.positions[: images.shape[1]])
        blank = images == PAD
        unseen = blank.clone()
        unseen[:, 0] = False  # a text of nothing but padding would be 0 / 0
        for block in self.blocks:
            features = block(features, src_key_padding_mask=unseen)
        features = self.norm(features) * ~blank.unsqueeze(2)
        return Tokens(features[:, 0], features[:, :0], features)


def _block(settings: TextSettings, name: str) -> nn.TransformerEncoderLayer:
    block = nn.TransformerEncoderLayer(
        settings.width,
        settings.num_heads,
        4 * settings.width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    block.dropout1 = KeyedDropout(settings.dropout, f"{name} attention")  # type: ignore[assignment]
    block.dropout2 = KeyedDropout(settings.dropout, f"{name} words")  # type: ignore[assignment]
    return block


def text_encoder(name: str, settings: TextSettings, length: int) -> Encoder:
    """Build an encoder of texts of `length` tokens with random weights."""
    kind = TokenTransformer if name == TRANSFORMER else WordVectors
    return kind(settings, length)
