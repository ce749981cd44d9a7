"""models.steps.acceleration: an encoder compiled, or computing again, stays the same function."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from models.encoders.encoder import Encoder, Hidden
from models.encoders.factory import EncoderConfig, build_encoder
from models.encoders.vit import VisionTransformerEncoder
from models.steps import acceleration

PX = 16
STACKS = [
    EncoderConfig(name="resnet18_small", width=4),
    EncoderConfig(name="vit_tiny_small", width=8),
    EncoderConfig(name="vit_tiny_small", width=8, causal="raster"),
    EncoderConfig(name="amdim", width=4),
    EncoderConfig(name="resnet18_small", width=4, patch_size=8),
]


def build(config: EncoderConfig) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(config, PX)


def images() -> Tensor:
    return torch.randn(4, 3, PX, PX, generator=torch.Generator().manual_seed(1))


def trained(encoder: Encoder) -> dict[str, Tensor]:
    """Take two passes of a step, as of two groups of views; gradients and state after them."""
    loss = sum(encoder(x).square().sum() for x in (images(), images().flip(0) * 0.5))
    assert isinstance(loss, Tensor)
    loss.backward()
    gradients = {f"gradient of {key}": p.grad for key, p in encoder.named_parameters()}
    return {key: x for key, x in gradients.items() if x is not None} | encoder.state_dict()


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, x in expected.items():
        torch.testing.assert_close(found[key], x, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("config", STACKS, ids=str)
def test_what_computes_again_has_the_same_gradients_and_statistics(config: EncoderConfig) -> None:
    encoder = build(config)
    acceleration.recompute(encoder)
    again = trained(encoder)
    for key, x in trained(build(config)).items():
        assert again[key].equal(x), key


def test_of_each_block_only_its_input_is_kept() -> None:
    def kept(*, again: bool) -> int:
        encoder = build(STACKS[1])
        if again:
            acceleration.recompute(encoder)
        sizes = list[int]()

        def note(x: Tensor) -> Tensor:
            sizes.append(x.nbytes)
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            encoder(images())
        return sum(sizes)

    assert kept(again=True) < kept(again=False) / 4


def test_a_network_that_is_no_stack_of_blocks_is_refused() -> None:
    encoder = build_encoder(EncoderConfig(name="torchvision:vgg11"), 32)
    with pytest.raises(ValueError, match=r"train\.checkpoint_activations .*vgg11"):
        acceleration.recompute(encoder)


@pytest.mark.parametrize(
    ("name", "blocks", "share"),
    [("torchvision:resnet50", 16, 0.99), ("vit_small_patch16_224", 12, 0.98),
     ("convnext_atto", 12, 0.9), ("swin_tiny_patch4_window7_224", 12, 0.9)],
)  # fmt: skip
def test_blocks_are_found_in_networks_of_libraries(name: str, blocks: int, share: float) -> None:
    with torch.device("meta"):
        import timm
        import torchvision

        network: nn.Module = (
            torchvision.models.get_model(name.removeprefix("torchvision:"))
            if name.startswith("torchvision:")
            else timm.create_model(name, num_classes=0)
        )
    found = acceleration.repeated_blocks(network)
    inside = sum(p.numel() for block in found for p in block.parameters())
    classifier = sum(p.numel() for p in getattr(network, "fc", nn.Identity()).parameters())
    assert len(found) == blocks
    assert inside > share * (sum(p.numel() for p in network.parameters()) - classifier)


@pytest.fixture
def light_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the compiler but its machine code, which takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.mark.slow
@pytest.mark.usefixtures("light_compiler")
def test_a_compiled_convolutional_encoder_that_computes_again_is_the_same_function() -> None:
    encoder = build(STACKS[0])
    acceleration.compile_encoder(encoder, by_blocks=True)
    acceleration.recompute(encoder)
    assert_alike(trained(encoder), trained(build(STACKS[0])))


@pytest.mark.long
@pytest.mark.usefixtures("light_compiler")
def test_a_compiled_transformer_is_the_same_function_of_images_and_masks() -> None:
    def shallow() -> Encoder:
        encoder = build(STACKS[1])
        assert isinstance(encoder, VisionTransformerEncoder)
        encoder.vit.blocks = encoder.vit.blocks[:1]
        return encoder

    compiled, plain = shallow(), shallow()
    acceleration.compile_encoder(compiled, by_blocks=False)
    keep = torch.arange(4).expand(4, 4) * 3
    hidden = Hidden(torch.arange(plain.num_patches).expand(4, -1) % 3 == 0, torch.ones(24))
    for call in ({"keep": keep}, {"hidden": hidden}):
        found, expected = (each.tokens(images(), **call).patches for each in (compiled, plain))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert_alike(trained(compiled), trained(plain))
    with acceleration.uncompiled(), torch.no_grad():
        assert compiled.eval()(images()).allclose(plain.eval()(images()), atol=1e-5)
