import pytest
import torch

from augment.recipe import CropGroup, Views
from models.blocks.multi_crop import check_crop_sizes, encode_by_size
from models.encoders.factory import EncoderConfig, build_encoder


@pytest.mark.parametrize("name", ["resnet18_small", "vit_tiny_small"])
def test_the_encoder_is_called_once_a_size_and_views_come_back_in_order(name: str) -> None:
    encoder = build_encoder(
        EncoderConfig(name=name, width=8), 32
    ).eval()  # in training, batch norm mixes the views
    crops = [torch.randn(count, 3, 3, size, size) for count, size in ((1, 32), (3, 16), (2, 32))]
    expected = torch.stack([encoder(view) for group in crops for view in group])
    seen: list[tuple[int, ...]] = []
    encoder.register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(inputs[0].shape))
    )
    embeddings = encode_by_size(encoder, crops)
    assert seen == [(9, 3, 32, 32), (9, 3, 16, 16)]
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5)


def test_a_size_that_the_encoder_cannot_take_is_refused_by_key() -> None:
    encoder = build_encoder(EncoderConfig(name="vit_tiny_small", width=8), 64)
    views = Views(
        size=64, groups={"global_crops": CropGroup(count=2), "local_crops": CropGroup(size=28)}
    )
    with pytest.raises(
        ValueError, match=r"views\.groups\.local_crops\.size=28 does not suit the encoder"
    ):
        check_crop_sizes(views, encoder)
    check_crop_sizes(
        views.model_copy(update={"groups": {"local_crops": CropGroup(size=24)}}), encoder
    )
    assert encoder.training
