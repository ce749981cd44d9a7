"""The decoder of masked methods: where tokens go, and the names that checkpoints know."""

import torch

from models.blocks.token_decoder import TokenDecoder


def decoder() -> TokenDecoder:
    return TokenDecoder(6, 10, (2, 3), dim=8, depth=1, num_heads=2)


def test_every_patch_of_any_grid_has_a_prediction() -> None:
    keep = torch.tensor([[0, 5], [2, 3]])
    assert decoder()(torch.randn(2, 2, 6), keep).shape == (2, 6, 10)


def test_tokens_are_known_by_their_place_not_by_their_order() -> None:
    network = decoder()
    visible = torch.randn(1, 3, 6)
    keep = torch.tensor([[1, 4, 2]])
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        network(visible, keep), network(visible[:, order], keep[:, order]), rtol=1e-4, atol=1e-5
    )
    moved = network(visible, torch.tensor([[1, 4, 3]]))
    assert not torch.allclose(network(visible, keep), moved, atol=1e-3)


def test_its_parameters_have_the_names_of_saved_checkpoints() -> None:
    roots = {name.partition(".")[0] for name in decoder().state_dict()}
    assert roots == {"embed", "mask_token", "blocks", "norm", "predict"}
