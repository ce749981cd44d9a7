"""MAE: what the encoder sees, what the loss counts, and how a reconstruction gets its colours
back."""

import pytest
import skimage.data
import torch
from torch import Tensor

from augment.masking import MaskKey, random_mask
from augment.recipe import CropGroup
from models.blocks.patchify import patchify, unpatchify
from models.encoders.factory import EncoderConfig
from models.masked.mae import MAE, MAEConfig
from models.method import Batch
from models.registry import build_method
from tests.models.masked.photograph import make_batch, tiles

SIZE = 32
VIT = EncoderConfig(name="vit_tiny_small", width=8)


def build(encoder: EncoderConfig = VIT, size: int = SIZE, **settings: float | bool) -> MAE:
    config = MAEConfig(decoder_dim=32, decoder_depth=1, decoder_heads=2, **settings)  # type: ignore[arg-type]
    method = build_method(config, encoder, MAE.default_views(size), 0)
    assert isinstance(method, MAE)
    return method


def draw_mask(method: MAE, batch: Batch) -> tuple[Tensor, Tensor]:
    num_patches = method.encoder.num_patches
    key = MaskKey(method.seed, batch["epoch"], batch["sample_id"])
    return random_mask(num_patches, method.mask_ratio, key)


def test_views_are_cropped_and_flipped_and_keep_their_colours() -> None:
    (group,) = MAE.default_views(224).groups.values()
    assert group == CropGroup(count=1, scale=(0.2, 1.0), flip=0.5)


def test_encoder_sees_a_quarter_of_the_tokens() -> None:
    method = build()
    seen: list[int] = []
    method.encoder.vit.blocks[0].register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape[1])
    )
    method(make_batch(tiles(4)))
    assert seen == [16]


def test_hidden_pixels_do_not_reach_the_prediction() -> None:
    method = build()
    batch = make_batch(tiles(4))
    _, mask = draw_mask(method, batch)
    patches = patchify(batch["views"]["global_crops"][0], 4)
    changed = torch.where(mask.unsqueeze(-1), torch.randn_like(patches), patches)
    other = unpatchify(changed, (8, 8), 4)
    torch.testing.assert_close(
        method._predict(other, batch)[2],
        method._predict(batch["views"]["global_crops"][0], batch)[2],
    )


def test_loss_counts_hidden_patches_only_and_equals_a_naive_loop() -> None:
    method = build()
    batch = make_batch(tiles(3))
    images = batch["views"]["global_crops"][0]
    _, mask = draw_mask(method, batch)
    prediction = method._predict(images, batch)[2]
    errors = []
    for sample in range(3):
        for patch in range(64):
            if mask[sample, patch]:
                row, column = 4 * (patch // 8), 4 * (patch % 8)
                pixels = images[sample, :, row : row + 4, column : column + 4].flatten()
                target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
                errors.append((prediction[sample, patch] - target).square().mean())
    torch.testing.assert_close(
        method(batch)["loss"], torch.stack(errors).mean(), rtol=1e-4, atol=1e-5
    )


def test_predicting_nothing_costs_about_one_with_normalised_pixels() -> None:
    method = build()
    torch.nn.init.zeros_(method.decoder.predict.weight)
    loss = method(make_batch(tiles(8)))["loss"].item()
    assert loss == pytest.approx(47 / 48, abs=0.01)  # 48 values a patch, unbiased variance


def test_another_epoch_hides_other_patches_and_the_same_epoch_the_same() -> None:
    method = build()
    images = tiles(4)
    first, again, later = (method(make_batch(images, epoch))["loss"].item() for epoch in (0, 0, 1))
    assert first == again and first != later


def test_a_sample_is_masked_alike_in_any_batch() -> None:
    method = build()
    batch = make_batch(tiles(4))
    alone = {key: value[2:3] for key, value in batch.items() if key != "views"}
    single = Batch(views={"global_crops": batch["views"]["global_crops"][:, 2:3]}, **alone)  # type: ignore[typeddict-item]
    assert torch.equal(draw_mask(method, batch)[1][2:3], draw_mask(method, single)[1])
    torch.testing.assert_close(method(batch)["embedding"][2:3], method(single)["embedding"])


def test_visible_tokens_with_nothing_hidden_are_the_patch_tokens() -> None:
    for config, size in ((VIT, 32), (EncoderConfig(name="vit_tiny_patch16_224"), 64)):
        encoder = build(config, size).encoder
        images = tiles(2, size)
        keep = torch.arange(encoder.num_patches).expand(2, -1)
        torch.testing.assert_close(
            encoder.tokens(images, keep).patches, encoder.tokens(images).patches
        )
        torch.testing.assert_close(encoder(images), encoder.tokens(images).patches.mean(dim=1))


def test_embedding_is_pooled_of_what_was_visible_as_the_encoder_pools() -> None:
    method = build(EncoderConfig(name="vit_tiny_patch16_224", pooling="class"), 64)
    batch = make_batch(tiles(2, 64))
    keep, _ = draw_mask(method, batch)
    visible = method.encoder.tokens(batch["views"]["global_crops"][0], keep)
    assert visible.cls is not None
    torch.testing.assert_close(method(batch)["embedding"], visible.cls.detach())


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_224",
        "deit3_small_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vit_base_patch32_siglip_256",
    ],
)
def test_timm_transformers_train_at_the_size_of_the_views(name: str) -> None:
    method = build(EncoderConfig(name=name), 64)
    assert method.encoder.supports("tokens")
    assert method.encoder.num_patches == (64 // method.encoder.patch_size) ** 2
    out = method(make_batch(tiles(2, 64)))
    out["loss"].backward()
    assert torch.isfinite(out["loss"])
    assert all(p.grad is not None and p.grad.any() for p in method.parameters() if p.requires_grad)


def test_an_encoder_that_cannot_drop_tokens_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError,
        match=r"encoder\.name=resnet18_small gives no patch tokens.*method\.name=mae needs that",
    ):
        build(EncoderConfig(name="resnet18_small", width=8))


def test_what_is_shown_keeps_visible_patches_and_a_perfect_prediction_restores_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for norm_pixels in (True, False):
        method = build(norm_pixels=norm_pixels)
        batch = make_batch(tiles(4))
        images = batch["views"]["global_crops"][0]
        _, mask = draw_mask(method, batch)
        hidden = unpatchify(mask.unsqueeze(-1).expand(-1, -1, 48), (8, 8), 4)
        original = method.to_rgb(images)
        assert set(method.show(batch)) == {"visible"}  # nothing is learnt yet
        method.after_step(1, 2)
        masked, painted = method.show(batch).values()
        expected = (
            torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[:, :SIZE, :SIZE] / 255
        )
        torch.testing.assert_close(original[0], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(painted[~hidden], original[~hidden])
        torch.testing.assert_close(masked[~hidden], original[~hidden])
        assert (masked[hidden] == 0.5).all() and not torch.allclose(
            painted[hidden], original[hidden], atol=0.01
        )
        target = method._targets(images)[0]
        monkeypatch.setattr(
            method, "_predict", lambda *_, mask=mask, target=target: (mask, None, target)
        )
        torch.testing.assert_close(method.show(batch)["painted"], original, rtol=0, atol=1e-5)


def test_loss_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = build()(make_batch(tiles(2)))["loss"]
    assert loss.dtype == torch.float32 and torch.isfinite(loss)


@pytest.mark.parametrize(
    "settings", [{"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"decoder_dim": 32, "decoder_heads": 3}]
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"mask_ratio|decoder_heads"):
        MAEConfig(**settings)  # type: ignore[arg-type]
