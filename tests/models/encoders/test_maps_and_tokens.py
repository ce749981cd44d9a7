"""What an encoder gives beside its embedding: maps, tokens, or a clear refusal."""

import pytest
import torch
from torch import Tensor

from models.encoders.encoder import Encoder, Feature, Hidden
from models.encoders.factory import EncoderConfig, build_encoder

VIT_WITH_REGISTERS = "vit_small_patch14_reg4_dinov2"
REGISTERS_WITHOUT_CLASS = "vit_wee_patch16_reg1_gap_256"


def build(name: str, size: int, **settings: object) -> Encoder:
    config = EncoderConfig(name=name, **settings)  # type: ignore[arg-type]
    return build_encoder(config, size).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "size", "shape"),
    [
        (EncoderConfig(width=8), 32, (64, 4, 4)),
        (EncoderConfig(width=8, norm="layer", patch_size=8), 32, (64, 7, 7)),
        (EncoderConfig(width=16, split="lab"), 32, (128, 4, 4)),
        (EncoderConfig(name="vit_tiny_small", width=8), 32, (24, 8, 8)),
        (EncoderConfig(name="amdim", width=8), 32, (32, 5, 5)),
        (EncoderConfig(name=VIT_WITH_REGISTERS), 56, (384, 4, 4)),
        (EncoderConfig(name="resnet10t"), 64, (512, 2, 2)),
        (EncoderConfig(name="convnext_atto"), 64, (320, 2, 2)),
        (EncoderConfig(name="mobilenetv3_small_050"), 64, (288, 2, 2)),
        (EncoderConfig(name="swin_tiny_patch4_window7_224"), 64, (768, 2, 2)),
        (EncoderConfig(name="vit_tiny_r_s16_p8_224"), 64, (192, 2, 2)),
        (EncoderConfig(name="torchvision:resnet18"), 64, (512, 2, 2)),
        (EncoderConfig(name="torchvision:mobilenet_v3_small"), 64, (576, 2, 2)),
    ],
    ids=lambda value: value.name if isinstance(value, EncoderConfig) else str(value),
)
def test_maps_have_the_channels_and_places_they_are_said_to_have(
    config: EncoderConfig, size: int, shape: tuple[int, int, int]
) -> None:
    encoder = build_encoder(config, size)
    assert encoder.supports("maps") and encoder.training
    assert encoder.map_dim == shape[0]
    encoder.eval()
    images = torch.randn(2, 3, size, size)
    maps = encoder.maps(images)
    assert maps.shape == (2, *shape)
    assert maps.std(dim=(2, 3)).mean() > 0  # places, not a constant
    if encoder.supports("trainable_maps"):
        torch.testing.assert_close(encoder.pool(maps), encoder(images), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_maps_lie_where_the_image_has_them() -> None:
    for encoder in (build("resnet18_small", 64, width=8), build("torchvision:swin_t", 64)):
        images = torch.zeros(1, 3, 64, 64)
        changed = images.clone()
        changed[:, :, :24, 40:] = 3.0  # the corner above, to the right
        moved = (encoder.maps(changed) - encoder.maps(images)).abs().sum(1)[0]  # (h, w)
        row, column = divmod(int(moved.argmax()), moved.shape[1])
        assert row < moved.shape[0] / 2 <= column


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "size", "has_class", "num_registers"),
    [
        ("vit_tiny_small", 32, False, 0),
        ("vit_tiny_patch16_224", 64, True, 0),
        (VIT_WITH_REGISTERS, 56, True, 4),
        (REGISTERS_WITHOUT_CLASS, 64, False, 1),
        ("deit_tiny_distilled_patch16_224", 64, True, 1),
        ("vit_base_patch32_siglip_gap_256", 64, False, 0),
    ],
)
def test_class_register_and_patch_tokens_are_told_apart(
    name: str, size: int, has_class: bool, num_registers: int
) -> None:
    encoder = build(name, size)
    images = torch.randn(2, 3, size, size)
    tokens = encoder.tokens(images)
    dim = encoder.embed_dim
    assert (tokens.cls is not None) == has_class
    assert tokens.cls is None or tokens.cls.shape == (2, dim)
    assert tokens.registers.shape == (2, num_registers, dim)
    assert tokens.patches.shape == (2, encoder.num_patches, dim)
    assert encoder.grid == (size // encoder.patch_size, size // encoder.patch_size)
    keep = torch.randperm(encoder.num_patches).expand(2, -1)
    again = encoder.tokens(images, keep)
    expected = tokens.patches[:, keep[0]]
    torch.testing.assert_close(again.patches, expected, rtol=1e-4, atol=1e-5)
    if tokens.cls is not None:
        torch.testing.assert_close(again.cls, tokens.cls, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again.registers, tokens.registers, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_wee_patch16_reg1_gap_256"])
def test_tokens_of_an_image_of_any_size_make_the_grid_of_its_shape(name: str) -> None:
    encoder = build(name, 64)
    images = torch.randn(2, 3, 96, 160)
    keep = torch.tensor([[59, 0], [7, 31]])
    assert encoder.tokens(images).patches.shape[1] == 6 * 10
    assert encoder.tokens(images, keep).patches.shape[1] == 2
    maps = encoder.maps(images)
    assert maps.shape[2:] == (6, 10)
    row_major = maps[:, :, 2, 3]
    torch.testing.assert_close(row_major, encoder.tokens(images).patches[:, 2 * 10 + 3])
    assert encoder(images).shape == (2, encoder.embed_dim)


@torch.no_grad()
def test_what_is_not_kept_has_no_part_in_the_tokens() -> None:
    encoder = build("vit_tiny_patch16_224", 64)
    images = torch.randn(1, 3, 64, 64)
    other = images.clone()
    other[:, :, 48:] = torch.randn(1, 3, 16, 64)  # the last row of patches
    keep = torch.arange(12).unsqueeze(0)
    kept = encoder.tokens(images, keep)
    same = encoder.tokens(other, keep)
    assert torch.equal(kept.patches, same.patches)
    assert kept.cls is not None and same.cls is not None and torch.equal(kept.cls, same.cls)
    assert not torch.equal(encoder.tokens(images).patches, encoder.tokens(other).patches)


@pytest.mark.parametrize("name", ["vit_tiny_small", VIT_WITH_REGISTERS])
def test_a_hidden_patch_is_a_learned_token_in_its_place(name: str) -> None:
    size = 56 if name == VIT_WITH_REGISTERS else 32
    encoder = build(name, size)
    images = torch.randn(2, 3, size, size)
    mask = torch.zeros(2, encoder.num_patches, dtype=torch.bool)
    mask[0, 0] = mask[1, -2:] = True
    token = torch.randn(encoder.embed_dim, requires_grad=True)
    seen = encoder.tokens(images, hidden=Hidden(mask, token))
    # What is under a mask does not matter; what is not, does.
    changed = images.clone()
    side = encoder.patch_size
    changed[0, :, :side, :side] += 1
    again = encoder.tokens(changed, hidden=Hidden(mask, token))
    assert torch.equal(seen.patches, again.patches)
    changed[0, :, :side, side : 2 * side] += 1
    assert not torch.equal(
        seen.patches[0], encoder.tokens(changed, hidden=Hidden(mask, token)).patches[0]
    )
    # Two hidden patches of one sample differ by their places alone.
    assert not torch.allclose(seen.patches[1, -1], seen.patches[1, -2], atol=1e-3)
    seen.patches.sum().backward()
    assert token.grad is not None and token.grad.any()
    nothing = encoder.tokens(images, hidden=Hidden(torch.zeros_like(mask), token))
    expected = encoder.tokens(images)
    torch.testing.assert_close(nothing.patches, expected.patches, rtol=1e-4, atol=1e-5)
    keep = torch.arange(3).expand(2, -1)
    kept = encoder.tokens(images, keep, Hidden(mask, token)).patches
    assert not torch.allclose(kept[0, 0], encoder.tokens(images, keep).patches[0, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "feature", "message"),
    [
        ("resnet18_small", "tokens", r"gives no patch tokens.*take a vision transformer such as"),
        ("resnet18_small", "patches", r"does not encode patches.*set encoder\.patch_size"),
        ("vit_tiny_small", "scales", r"has no feature grids.*take encoder\.name=amdim"),
        ("torchvision:densenet121", "maps", r"gives no feature maps.*take resnet18_small"),
        ("torchvision:densenet121", "trainable_maps", r"gives no feature maps"),
        ("torchvision:vit_b_32", "maps", r"gives no feature maps"),
    ],
)
def test_what_an_encoder_does_not_give_is_refused_with_who_has_it(
    name: str, feature: Feature, message: str
) -> None:
    encoder = build(name, 64)
    assert not encoder.supports(feature)
    with pytest.raises(ValueError, match=rf"encoder\.name={name} {message}") as caught:
        encoder.require(feature, by="method.name=some")
    assert "method.name=some needs that" in str(caught.value)


def test_an_encoder_that_a_key_made_another_names_the_key() -> None:
    patches = build("vit_tiny_small", 32, width=8, patch_size=8)
    with pytest.raises(
        ValueError, match=r"vit_tiny_small with encoder\.patch_size gives"
    ) as caught:
        patches.require("tokens", by="method.name=mae")
    assert str(caught.value).endswith("vit_base_patch16_224, without encoder.patch_size")


def test_freezing_the_patch_embedding_freezes_it_alone() -> None:
    encoder = build("vit_tiny_small", 32, width=8)
    before = {name for name, p in encoder.named_parameters() if p.requires_grad}
    encoder.freeze_patch_embedding()
    after = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert before - after == {"vit.patch_embed.proj.weight", "vit.patch_embed.proj.bias"}


@pytest.mark.parametrize(("norm", "mixes"), [("batch", True), ("layer", False), ("none", False)])
def test_batch_norm_is_what_mixes_images(norm: str, mixes: bool) -> None:
    assert build("resnet18_small", 16, width=8, norm=norm).mixes_images == mixes


def test_state_dicts_have_the_names_of_saved_artifacts() -> None:
    def roots(encoder: Encoder) -> set[str]:
        names: dict[str, Tensor] = encoder.state_dict()
        return {".".join(name.split(".")[:2]) for name in names}

    assert roots(build("resnet18_small", 16, width=8)) >= {"stem.0", "stages.3"}
    assert "vit.blocks" in roots(build("vit_tiny_small", 32, width=8))
    assert "network.layer4" in roots(build("resnet10t", 64))
    assert "network.features" in roots(build("torchvision:convnext_tiny", 64))
    patches = build("resnet18_small", 32, width=8, norm="none", patch_size=8)
    assert roots(patches) >= {"patch_encoder.stem", "patch_encoder.stages"}
    assert roots(build("amdim", 16, width=8)) >= {"to_7.0", "to_5.0", "to_1.0"}
