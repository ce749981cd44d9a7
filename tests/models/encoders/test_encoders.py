"""Encoders: names, shapes, memory layout and positions."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from models.encoders.encoder import Encoder
from models.encoders.factory import EncoderConfig, build_encoder
from models.encoders.hub_names import weights_left_out
from models.encoders.resnet_small import ResidualBlock, ResNetSmall
from models.encoders.vit import VisionTransformerEncoder


@pytest.mark.parametrize(
    ("config", "image_size", "embed_dim"),
    [
        (EncoderConfig(name="resnet18_small", width=16), 32, 128),
        (EncoderConfig(name="resnet18_small"), 32, 512),
        (EncoderConfig(name="resnet18_small", width=8, norm="layer", patch_size=8), 32, 64),
        (
            EncoderConfig(
                name="resnet18_small", width=8, norm="none", patch_size=20, patch_stride=6
            ),
            32,
            64,
        ),
        (EncoderConfig(name="resnet18_small", width=16, split="lab"), 32, 128),
        (EncoderConfig(name="resnet18", split="lab"), 64, 1024),
        (EncoderConfig(name="amdim", width=8), 32, 64),
        (EncoderConfig(name="vit_tiny_small"), 32, 192),
        (EncoderConfig(name="vit_tiny_small", width=16), 96, 48),
        (EncoderConfig(name="resnet18"), 64, 512),
        (EncoderConfig(name="resnet10t.c3_in1k"), 64, 512),
        (EncoderConfig(name="vit_tiny_patch16_224"), 64, 192),
        (EncoderConfig(name="vit_tiny_r_s16_p8_224"), 64, 192),
        (EncoderConfig(name="deit_tiny_distilled_patch16_224"), 64, 192),
        (EncoderConfig(name="vit_base_patch32_siglip_gap_256"), 64, 768),
        (EncoderConfig(name="swin_tiny_patch4_window7_224"), 64, 768),
        (EncoderConfig(name="torchvision:resnet18"), 64, 512),
        (EncoderConfig(name="torchvision:vit_b_32"), 64, 768),
        (EncoderConfig(name="torchvision:mobilenet_v3_small"), 64, 576),
        (EncoderConfig(name="torchvision:convnext_tiny"), 64, 768),
    ],
    ids=lambda value: value.name if isinstance(value, EncoderConfig) else str(value),
)
def test_embeds_images_as_rows_of_embed_dim(
    config: EncoderConfig, image_size: int, embed_dim: int
) -> None:
    encoder = build_encoder(config, image_size)
    assert isinstance(encoder, Encoder) and encoder.training
    assert encoder.embed_dim == embed_dim
    assert encoder(torch.randn(2, 3, image_size, image_size)).shape == (2, embed_dim)


def test_same_seed_gives_the_same_weights() -> None:
    def weights(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(
            build_encoder(EncoderConfig(name="vit_tiny_small", width=8), 32).state_dict().values()
        )

    assert all(torch.equal(a, b) for a, b in zip(weights(1), weights(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(1), weights(2), strict=True))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet18_smal", "resnet18_small"),
        ("vit_bse_patch16_224", "vit_base_patch16_224"),
        ("torchvision:resnet81", "torchvision:resnet18"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest_ones(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=nearest):
        EncoderConfig(name=name)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("timm/vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224"),
        ("hf-hub:timm/resnet50.a1_in1k", "resnet50"),
        ("hf_hub:timm/convnext_atto.d2_in1k", "convnext_atto"),
        ("timm/resnet50", "resnet50"),
        ("resnet10t.c3_in1k", "resnet10t"),
    ],
)
def test_a_name_under_which_weights_are_published_is_that_of_their_network_and_said_so(
    name: str, network: str
) -> None:
    assert EncoderConfig(name=name) == EncoderConfig(name=network)
    assert weights_left_out(name) == (
        f"encoder.name={name}: no weights are loaded, {network} starts from random ones;"
        " encoder.weights=FILE gives it some"
    )


@pytest.mark.parametrize("name", ["resnet18_small", "resnet50", "torchvision:resnet18"])
def test_a_plain_name_asks_for_no_weights(name: str) -> None:
    assert EncoderConfig(name=name).name == name
    assert weights_left_out(name) is None


def test_a_published_name_of_an_unknown_network_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(
        ValueError, match=r"vit_tinny_patch16_224 is not known.*vit_tiny_patch16_224"
    ):
        EncoderConfig(name="timm/vit_tinny_patch16_224.augreg_in21k")


def test_names_that_would_be_fetched_from_a_hub_are_refused() -> None:
    with pytest.raises(ValueError, match="not known"):
        EncoderConfig(name="hf-hub:someone/something")


def test_width_without_effect_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"encoder\.width=16 has no effect on encoder\.name=resnet50"
    ):
        EncoderConfig(name="resnet50", width=16)


def test_norm_and_patches_without_effect_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"encoder\.norm=layer has no effect on encoder\.name=resnet50"
    ):
        EncoderConfig(name="resnet50", norm="layer")
    with pytest.raises(
        ValueError, match=r"encoder\.patch_stride=9 must be at most encoder\.patch_size, got 8"
    ):
        EncoderConfig(patch_size=8, patch_stride=9)
    with pytest.raises(
        ValueError,
        match=r"encoder\.patch_size=8 every 5 px do not end at the border of views\.size=32",
    ):
        build_encoder(EncoderConfig(patch_size=8, patch_stride=5), 32)


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_resnet18_small_without_batch_norm_embeds_an_image_alike_in_any_batch(
    norm: Literal["layer", "none"],
) -> None:
    encoder, images = ResNetSmall(8, norm), torch.randn(4, 3, 16, 16)
    embedding = encoder(images)
    torch.testing.assert_close(embedding[1:2], encoder(images[1:2]), rtol=1e-4, atol=1e-5)
    assert 0.1 < embedding.square().mean().sqrt() < 10


@pytest.mark.parametrize("name", ["vit_tiny_small", "vit_tiny_patch16_224"])
def test_image_that_does_not_divide_into_patches_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"views\.size must be a multiple of"):
        build_encoder(EncoderConfig(name=name), 36)


def test_image_too_small_for_a_network_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"encoder\.name=torchvision:alexnet cannot take images of 32 px"
    ):
        build_encoder(EncoderConfig(name="torchvision:alexnet"), 32)


def test_resnet18_small_has_the_parameters_of_a_resnet18_with_a_small_stem() -> None:
    num_parameters = sum(parameter.numel() for parameter in ResNetSmall(64).parameters())
    # torchvision's, less fc and 7x7 stem
    assert num_parameters == 11_689_512 - (512 * 1000 + 1000) - 64 * 3 * (49 - 9)


def test_resnet18_small_halves_the_resolution_three_times() -> None:
    encoder = ResNetSmall(8)
    assert encoder.stages(encoder.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 4, 4)


def test_channels_last_survives_the_whole_resnet() -> None:
    encoder = ResNetSmall(16).to(memory_format=torch.channels_last)
    layouts: list[bool] = []
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.ReLU):
            module.register_forward_hook(
                lambda _, inputs, output: layouts.append(
                    output.is_contiguous(memory_format=torch.channels_last)
                )
            )
    encoder(torch.randn(2, 2, 3, 32, 32).flatten(0, 1))  # contiguous input, as the batch comes
    assert len(layouts) == 57 and all(layouts)


def test_channels_last_embeds_as_contiguous_does() -> None:
    encoder, images = ResNetSmall(8).eval(), torch.randn(2, 3, 32, 32)
    expected = encoder(images)
    torch.testing.assert_close(
        encoder.to(memory_format=torch.channels_last)(images), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_a_narrow_resnet_learns_in_channels_last() -> None:
    apart = list[float]()
    for _ in range(5):  # a rectifier that tips over at a sum's last bit is no fault of the layout
        encoder, images = ResNetSmall(8), torch.randn(4, 3, 64, 64)
        weight = encoder.get_parameter("stages.1.0.downsample.0.weight")
        found: list[Tensor] = []
        for layout in (torch.contiguous_format, torch.channels_last):
            encoder.to(memory_format=layout)
            features = encoder(images.contiguous(memory_format=layout))
            told = (features @ torch.linspace(-1, 1, 64)).square().sum()
            found += torch.autograd.grad(told, weight)
        apart.append(float((found[0] - found[1]).norm() / found[0].norm()))
    assert sorted(apart)[2] < 1e-3


def test_positions_are_fixed_and_tell_every_patch_apart() -> None:
    encoder = build_encoder(EncoderConfig(name="vit_tiny_patch16_224"), 64)
    assert isinstance(encoder, VisionTransformerEncoder)
    positions = encoder.vit.pos_embed
    assert positions is not None and not positions.requires_grad
    # the class token has no place
    assert positions.shape == (1, 17, 192) and not positions[0, 0].any()
    assert torch.cdist(positions[0, 1:], positions[0, 1:]).fill_diagonal_(1).min() > 0.1


def test_patch_tokens_are_in_raster_order() -> None:
    encoder = build_encoder(EncoderConfig(name="vit_tiny_small", width=8), 32)
    assert isinstance(encoder, VisionTransformerEncoder)
    images = torch.zeros(1, 3, 32, 32)
    changed = images.clone()
    changed[:, :, 8:12, 20:24] = 3.0  # row 2, column 5 of patches of 4 px
    embedded = (encoder.vit.patch_embed(changed) - encoder.vit.patch_embed(images)).flatten(
        1, -2
    )  # (1, N, D)
    assert embedded.abs().sum(-1).nonzero()[:, 1].tolist() == [2 * 8 + 5]


@pytest.mark.parametrize("name", ["resnet18_small", "torchvision:resnet50"])
def test_residual_blocks_may_start_as_if_they_were_not_there(name: str) -> None:
    encoder = build_encoder(EncoderConfig(name=name, zero_init_residual=True), 32)
    kinds = BasicBlock | Bottleneck | ResidualBlock
    blocks = [part for part in encoder.modules() if isinstance(part, kinds)]
    block = blocks[1]  # without a projection
    x = torch.rand(2, block.conv1.in_channels, 4, 4)
    torch.testing.assert_close(block.eval()(x), x)


def test_a_network_without_residual_blocks_refuses_to_start_without_them() -> None:
    with pytest.raises(ValueError, match=r"zero_init_residual=true has no effect on .*vit_tiny"):
        build_encoder(EncoderConfig(name="vit_tiny_small", zero_init_residual=True), 32)


def test_transformers_leave_out_more_branches_the_later_the_block() -> None:
    encoder = build_encoder(EncoderConfig(name="vit_tiny_small", width=8, drop_path=0.3), 16)
    shares = [block.drop_path1.share for block in encoder.vit.blocks]
    assert shares == pytest.approx([0.3 * index / 11 for index in range(12)])
    assert [block.drop_path2.share for block in encoder.vit.blocks] == shares
    images = torch.rand(8, 3, 16, 16)
    assert not torch.equal(encoder(images), encoder(images))
    plain = build_encoder(EncoderConfig(name="vit_tiny_small", width=8), 16)
    plain.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("name", ["vit_tiny_small", "vit_tiny_patch16_224"])
def test_queries_keys_and_values_drawn_apart_have_the_range_of_a_square_layer(name: str) -> None:
    ranges = {"joint": 6 / 4, "apart": 6 / 2}  # Xavier's rule: 6 / (fan in + fan out), in widths
    for how, expected in ranges.items():
        encoder = build_encoder(EncoderConfig(name=name, qkv_init=how), 32)  # type: ignore[arg-type]
        largest = encoder.vit.blocks[3].attn.qkv.weight.abs().max()
        assert largest.item() == pytest.approx((expected / encoder.embed_dim) ** 0.5, rel=1e-3)


def test_a_transformer_of_timm_may_have_other_heads() -> None:
    encoder = build_encoder(EncoderConfig(name="vit_small_patch16_224", num_heads=12), 32)
    attention = encoder.vit.blocks[0].attn
    assert (attention.num_heads, attention.head_dim) == (12, 32)
    assert attention.scale == pytest.approx(32**-0.5)
    with pytest.raises(ValueError, match=r"encoder\.num_heads=7 does not suit .*vit_small"):
        build_encoder(EncoderConfig(name="vit_small_patch16_224", num_heads=7), 32)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("resnet18_small", "drop_path", 0.1),
        ("resnet10t", "qkv_init", "apart"),
        ("resnet10t", "num_heads", 2),
        ("vit_tiny_small", "num_heads", 2),
    ],
)
def test_what_only_some_transformers_have_is_refused_elsewhere(
    name: str, key: str, value: float | str
) -> None:
    with pytest.raises(ValueError, match=rf"encoder\.{key}={value} has no effect on .*{name}"):
        build_encoder(EncoderConfig.model_validate({"name": name, key: value}), 32)
