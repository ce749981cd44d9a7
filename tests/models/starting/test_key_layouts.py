"""Weights of every common codebase, by the true names of its tensors, into an encoder."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoders.encoder import Encoder
from models.encoders.factory import EncoderConfig, build_encoder
from models.encoders.library import TimmEncoder, TorchvisionEncoder
from models.encoders.vit import VisionTransformerEncoder
from models.starting.fitting import Fit, fit_weights
from models.starting.weight_files import read_weights

WIDTH = 24
DEPTH = 4
PER_BLOCK = 12  # two norms, qkv, proj, fc1 and fc2, each with weight and bias
OUTSIDE = 6  # class token, positions, patch embedding (2), norm (2)
VIT = DEPTH * PER_BLOCK + OUTSIDE

State = dict[str, Tensor]


def network(size: int = 224, **changes: Any) -> VisionTransformer:
    """A small vision transformer of timm without classifier."""
    settings = {
        "img_size": size,
        "patch_size": 16,
        "num_classes": 0,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": 3,
        "fc_norm": False,
    }
    return VisionTransformer(**(settings | changes))


def vit(**changes: Any) -> State:
    """Its weights, of which every tensor differs."""
    return noisy(network(**changes).state_dict())


def noisy(state: State) -> State:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in state.items()
    }


def renamed(state: State, *pairs: tuple[str, str]) -> State:
    result = {}
    for name, value in state.items():
        for old, new in pairs:
            name = name.replace(old, new)
        result[name] = value
    return result


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def vectors(*names: str) -> State:
    return {name: torch.randn(WIDTH) for name in names}


def encoder(size: int = 224, **changes: Any) -> Encoder:
    return VisionTransformerEncoder(network(size, **changes))


def fit(target: Encoder, checkpoint: Any, folder: Path) -> Fit:
    """Through a file, as a user has it."""
    file = folder / "weights.pth"
    torch.save(checkpoint, file)
    return fit_weights(target, read_weights(str(file)), str(file))


def counts(found: Fit) -> tuple[int, int, int, int]:
    return len(found.taken), len(found.resampled), len(found.missing), len(found.left_over)


def dino() -> Any:
    """`dino_deitsmall16_pretrain_full_checkpoint.pth`: student and teacher, with their heads."""
    head = vectors("head.mlp.0.weight", "head.mlp.0.bias", "head.last_layer.weight_g")
    student = under("module.", under("backbone.", vit()) | head)
    teacher = under("backbone.", vit()) | head
    rest = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "epoch": 800}
    return {"student": student, "teacher": teacher, "args": argparse.Namespace(lr=1.0), **rest}


def dinov2_training() -> Any:
    """`teacher_checkpoint.pth`: blocks in chunks, heads beside the backbone."""
    chunked = {}
    for name, value in vit().items():
        parts = name.split(".")
        if parts[0] == "blocks":
            parts.insert(1, str(int(parts[1]) // 3))
        chunked[".".join(parts)] = value
    chunked["mask_token"] = torch.zeros(1, WIDTH)
    return {"teacher": under("backbone.", chunked) | vectors("dino_head.last_layer.weight_v")}


def mae() -> Any:
    """`mae_visualize_vit_base.pth`: the decoder is beside the encoder."""
    decoder = vectors("decoder_embed.weight", "decoder_pos_embed", "decoder_blocks.0.norm1.weight")
    return {"model": vit() | {"mask_token": torch.zeros(1, 1, WIDTH)} | decoder}


def moco_v3() -> Any:
    """`vit-s-300ep.pth.tar`: the head is the network's own."""
    heads = vectors("head.0.weight", "head.1.weight")
    base = under("module.base_encoder.", vit() | heads)
    momentum = under("module.momentum_encoder.", vit() | heads)
    predictor = vectors("module.predictor.0.weight")
    return {"epoch": 300, "arch": "vit_small", "state_dict": base | momentum | predictor}


def ijepa() -> Any:
    """`IN1K-vit.h.14-300e.pth.tar`: no class token."""
    state = vit()
    del state["cls_token"]
    state["pos_embed"] = state["pos_embed"][:, 1:].clone()
    whole = under("module.", state)
    predictor = vectors("module.predictor_embed.weight")
    return {"encoder": whole, "predictor": predictor, "target_encoder": whole, "scaler": None}


def vjepa() -> Any:
    """`vitl16.pth.tar`: tubelets of two frames, positions in time as well, no class token."""
    state = vit()
    del state["cls_token"]
    state["patch_embed.proj.weight"] = torch.randn(WIDTH, 3, 2, 16, 16)
    state["pos_embed"] = torch.randn(1, 8 * 14 * 14, WIDTH)
    whole = under("module.backbone.", state)
    return {"encoder": whole, "target_encoder": whole, "predictor": {}}


def torchvision_network(size: int = 224) -> torchvision.models.VisionTransformer:
    return torchvision.models.VisionTransformer(
        image_size=size,
        patch_size=16,
        num_layers=DEPTH,
        num_heads=3,
        hidden_dim=WIDTH,
        mlp_dim=4 * WIDTH,
    )


def torchvision_vit() -> Any:
    """`vit_b_16-c867db91.pth`."""
    return noisy(torchvision_network().state_dict())


@pytest.mark.parametrize(
    ("checkpoint", "prefix", "expected"),
    [
        (vit, "", (VIT, 0, 0, 0)),
        (dino, "teacher.backbone", (VIT, 0, 0, 3 + 3 + VIT)),
        (dinov2_training, "teacher.backbone", (VIT, 0, 0, 2)),
        (mae, "model", (VIT, 0, 0, 4)),
        (moco_v3, "state_dict.module.base_encoder", (VIT, 0, 0, 2 + VIT + 2 + 1)),
        (ijepa, "target_encoder.module", (VIT - 2, 1, 1, VIT - 1 + 1)),
        (vjepa, "target_encoder.module.backbone", (VIT - 3, 2, 1, VIT - 1)),
        (torchvision_vit, "", (VIT, 0, 0, 2)),
    ],
)
def test_every_tensor_of_a_vision_transformer_is_accounted_for(
    checkpoint: Callable[[], Any],
    prefix: str,
    expected: tuple[int, int, int, int],
    tmp_path: Path,
) -> None:
    found = fit(encoder(), checkpoint(), tmp_path)
    assert (found.prefix, counts(found)) == (prefix, expected)


def test_the_teacher_of_dino_is_taken_and_not_its_student(tmp_path: Path) -> None:
    checkpoint = dino()
    for name in checkpoint["student"]:
        checkpoint["student"][name] = checkpoint["student"][name] + 1
    target = encoder()
    fit(target, checkpoint, tmp_path)
    for name, value in target.get_submodule("vit").state_dict().items():
        assert torch.equal(value, checkpoint["teacher"][f"backbone.{name}"]), name


def test_a_vision_transformer_of_torchvision_computes_the_same_as_one_of_timm(
    tmp_path: Path,
) -> None:
    checkpoint = torchvision_vit()
    theirs = torchvision_network()
    theirs.heads = nn.Sequential()
    theirs.load_state_dict(checkpoint, strict=False)
    target = encoder().eval()
    fit(target, checkpoint, tmp_path)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.eval()(images)
        cls = target.tokens(images).cls
    torch.testing.assert_close(cls, expected, rtol=1e-3, atol=1e-3)


def dinov2(registers: int, size: int) -> VisionTransformer:
    settings = {"no_embed_class": True, "reg_tokens": registers} if registers else {}
    return network(size, patch_size=14, init_values=1e-5, **settings)


def dinov2_file(registers: int) -> State:
    """`dinov2_vits14_reg4_pretrain.pth` and `dinov2_vits14_pretrain.pth`, at 518 px."""
    state = noisy(dinov2(registers, 518).state_dict())
    state["mask_token"] = torch.zeros(1, WIDTH)
    if registers:
        state["register_tokens"] = state.pop("reg_token")
        positions = state["pos_embed"]  # of the class token, too, which timm adds to the token
        state["pos_embed"] = torch.cat([torch.randn(1, 1, WIDTH), positions], dim=1)
    return state


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_brings_its_layer_scale_and_registers(registers: int, tmp_path: Path) -> None:
    state = dinov2_file(registers)
    target = VisionTransformerEncoder(dinov2(registers, 56))
    found = fit(target, state, tmp_path)
    # positions from 37 x 37 to 4 x 4; two LayerScales a block
    tokens = 2 if registers else 1
    assert counts(found) == (DEPTH * (PER_BLOCK + 2) + 4 + tokens, 1, 0, 1)
    assert found.resampled == ("pos_embed",) and found.left_over == ("mask_token",)
    own = target.get_submodule("vit").state_dict()
    assert torch.equal(own["blocks.3.ls1.gamma"], state["blocks.3.ls1.gamma"])
    if registers:
        assert torch.equal(own["reg_token"], state["register_tokens"])
        expected = state["cls_token"] + state["pos_embed"][:, :1]
        assert torch.equal(own["cls_token"], expected)


def test_dinov3_brings_its_storage_tokens_and_leaves_what_is_fixed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small = {"num_classes": 0, "img_size": 64, "depth": DEPTH, "embed_dim": 48, "num_heads": 3}
    core = timm.create_model("vit_small_patch16_dinov3", **small)
    own = noisy(core.state_dict())
    state = renamed(own, ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"))
    state["storage_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, 48)
    state["rope_embed.periods"] = torch.randn(16)
    for block in range(DEPTH):
        state[f"blocks.{block}.attn.qkv.bias"] = torch.zeros(3 * 48)
        state[f"blocks.{block}.attn.qkv.bias_mask"] = torch.zeros(3 * 48)
    target = TimmEncoder(core, 64, "vit_small_patch16_dinov3")
    found = fit(target, state, tmp_path)
    assert counts(found) == (DEPTH * 13 + 6, 0, 0, 2 + 2 * DEPTH)
    for key, value in target.get_submodule("network").state_dict().items():
        assert torch.equal(value, own[key]), key
    assert capfd.readouterr().out == ""  # stdout is for results


RESNET18 = 20 + 20 * 4  # convolutions; norms with weight, bias, mean and variance


def resnet18() -> State:
    return noisy(torchvision.models.resnet18(weights=None).state_dict())


def moco_v2() -> Any:
    """`moco_v2_800ep_pretrain.pth.tar`."""
    heads = {"fc.0.weight": torch.randn(512, 512), "fc.2.weight": torch.randn(128, 512)}
    backbone = {name: value for name, value in resnet18().items() if not name.startswith("fc.")}
    query = under("module.encoder_q.", backbone | heads)
    key = under("module.encoder_k.", backbone | heads)
    queue = {"module.queue": torch.randn(128, 64), "module.queue_ptr": torch.zeros(1).long()}
    return {"epoch": 800, "arch": "resnet50", "state_dict": query | key | queue}


def in_a_row() -> Any:
    """A checkpoint of lightly: the children of the network, numbered."""
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    state = {}
    for name, value in resnet18().items():
        first, _, rest = name.partition(".")
        if first in numbers:
            state[f"backbone.{numbers[first]}.{rest}"] = value
    return {"state_dict": state | vectors("projection_head.layers.0.weight")}


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18"])
@pytest.mark.parametrize(
    ("checkpoint", "prefix", "left_over"),
    [
        (resnet18, "", 2),
        (moco_v2, "state_dict.module.encoder_q", 2 + RESNET18 + 2 + 1),
        (in_a_row, "state_dict.backbone", 1),
    ],
)
def test_every_tensor_of_a_resnet_is_accounted_for(
    name: str, checkpoint: Callable[[], Any], prefix: str, left_over: int, tmp_path: Path
) -> None:
    target = build_encoder(EncoderConfig(name=name), 64)
    found = fit(target, checkpoint(), tmp_path)
    assert (found.prefix, counts(found)) == (prefix, (RESNET18, 0, 0, left_over))
    own = target.get_submodule("network").state_dict()
    assert torch.equal(own["layer4.1.bn2.running_var"], resnet18()["layer4.1.bn2.running_var"])


def test_a_resnet_of_torchvision_fills_resnet18_small_but_for_its_stem(tmp_path: Path) -> None:
    target = build_encoder(EncoderConfig(), 32)
    found = fit(target, resnet18(), tmp_path)
    assert counts(found) == (RESNET18 - 1, 0, 1, 2 + 1)
    assert found.missing == {"stem.0.weight": "has shape (64, 3, 7, 7), not (64, 3, 3, 3)"}


def test_positions_and_patches_are_resampled_to_the_new_grid(tmp_path: Path) -> None:
    state = vit()
    target = encoder(size=96)
    found = fit(target, state, tmp_path)
    assert counts(found) == (VIT - 1, 1, 0, 0) and found.resampled == ("pos_embed",)
    own = target.get_submodule("vit").state_dict()["pos_embed"]
    expected = timm.layers.resample_abs_pos_embed(state["pos_embed"], new_size=[6, 6])
    torch.testing.assert_close(own, expected)
    smaller = encoder(96, patch_size=12, class_token=False, global_pool="avg")
    found = fit(smaller, state, tmp_path)
    assert counts(found) == (VIT - 3, 2, 0, 1)
    assert set(found.resampled) == {"pos_embed", "patch_embed.proj.weight"}


def test_a_vision_transformer_of_timm_fills_one_of_torchvision(tmp_path: Path) -> None:
    state = vit()
    core = torchvision_network(64)
    core.heads = nn.Sequential()
    target = TorchvisionEncoder(core, 64, "torchvision:vit_b_16")
    found = fit(target, state, tmp_path)
    assert counts(found) == (VIT - 1, 1, 0, 0)
    assert found.resampled == ("encoder.pos_embedding",)


def test_safetensors_are_read_as_well(tmp_path: Path) -> None:
    state = vit()
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, file)
    for uri in (str(file), str(tmp_path)):  # the folder of a model hub, too
        assert counts(fit_weights(encoder(), read_weights(uri), uri)) == (VIT, 0, 0, 0)
