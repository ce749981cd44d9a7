import math

import pytest
import torch
from torch import Tensor

from models.losses import cross_view_entropy, nt_xent


def views(num_samples: int = 5, dim: int = 4) -> Tensor:
    return torch.randn(2, num_samples, dim, generator=torch.Generator().manual_seed(0))


def nt_xent_by_loops(z: Tensor, temperature: float, valid: list[bool]) -> float:
    rows = [(view, sample) for view in range(2) for sample in range(z.shape[1]) if valid[sample]]

    def similarity(one: tuple[int, int], other: tuple[int, int]) -> float:
        return (
            float(torch.cosine_similarity(z[one].double(), z[other].double(), dim=0)) / temperature
        )

    total = 0.0
    for view, sample in rows:
        others = [row for row in rows if row != (view, sample)]
        denominator = sum(math.exp(similarity((view, sample), other)) for other in others)
        total -= math.log(math.exp(similarity((view, sample), (1 - view, sample))) / denominator)
    return total / len(rows)


def test_nt_xent_equals_the_papers_double_loop() -> None:
    expected = nt_xent_by_loops(views(), 0.3, [True] * 5)
    assert nt_xent(views(), temperature=0.3).item() == pytest.approx(expected, rel=1e-5)


def test_nt_xent_of_orthogonal_pairs_has_its_closed_form() -> None:
    num_samples, temperature = 4, 0.5
    z = torch.eye(num_samples).expand(2, -1, -1)
    # The positive's similarity is 1, those of the 2 * (B - 1) negatives are 0.
    expected = math.log(math.exp(1 / temperature) + 2 * (num_samples - 1)) - 1 / temperature
    assert nt_xent(z, temperature=temperature).item() == pytest.approx(expected, rel=1e-5)


def test_nt_xent_of_equal_embeddings_is_chance() -> None:
    assert nt_xent(torch.ones(2, 8, 3), temperature=0.1).item() == pytest.approx(
        math.log(15), rel=1e-5
    )


def test_nt_xent_does_not_depend_on_view_order_sample_order_scale_or_rotation() -> None:
    z = views()
    expected = nt_xent(z, temperature=0.2)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
    for same in (
        z.flip(0),
        z[:, [3, 0, 4, 2, 1]],
        z * torch.tensor([3.0, 0.1, 1, 7, 2])[:, None],
        z @ rotation,
    ):
        torch.testing.assert_close(nt_xent(same, temperature=0.2), expected)


def test_an_invalid_sample_is_neither_anchor_nor_negative() -> None:
    valid = [True, False, True, True, False]
    z = views().requires_grad_()
    loss = nt_xent(z, temperature=0.3, valid=torch.tensor(valid))
    loss.backward()
    assert loss.item() == pytest.approx(nt_xent_by_loops(z.detach(), 0.3, valid), rel=1e-5)
    assert z.grad[:, [1, 4]].abs().max() == 0
    kept = z.detach()[:, [0, 2, 3]].requires_grad_()
    nt_xent(kept, temperature=0.3).backward()
    torch.testing.assert_close(z.grad[:, [0, 2, 3]], kept.grad)


def test_a_batch_without_valid_samples_has_zero_loss_and_zero_gradient() -> None:
    z = views().requires_grad_()
    loss = nt_xent(z, temperature=0.1, valid=torch.zeros(5, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_a_zero_embedding_has_a_finite_gradient() -> None:
    z = views()
    z[:, 2] = 0
    nt_xent(z.requires_grad_(), temperature=0.1).backward()
    assert z.grad.isfinite().all()


def test_nt_xent_is_float32_under_autocast() -> None:
    z = views(64, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z, temperature=0.05)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, nt_xent(z, temperature=0.05))
    assert nt_xent(z.half(), temperature=0.05).dtype == torch.float32


@pytest.mark.parametrize(
    ("z", "temperature", "message"),
    [
        (torch.ones(3, 4, 2), 0.1, r"\(2, B, D\), one row per view; got \(3, 4, 2\)"),
        (torch.ones(2, 4), 0.1, "one row per view"),
        (torch.ones(2, 1, 4), 0.1, "at least 2 samples, got 1"),
        (torch.ones(2, 4, 4), 0.0, "temperature must be > 0, got 0.0"),
    ],
)
def test_input_without_a_meaning_is_refused(z: Tensor, temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nt_xent(z, temperature=temperature)


def test_cross_view_entropy_is_the_mean_over_pairs_of_unlike_views_by_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(2, 3, 5, generator=generator).softmax(-1)
    log_p = torch.rand(4, 3, 5, generator=generator).log_softmax(-1)
    for sample in range(3):
        pairs = [
            -(targets[u, sample] * log_p[v, sample]).sum()
            for u in range(2)
            for v in range(4)
            if u != v
        ]
        torch.testing.assert_close(
            cross_view_entropy(targets, log_p)[sample], torch.stack(pairs).mean()
        )


def test_cross_view_entropy_of_a_uniform_prediction_is_log_k() -> None:
    log_p = torch.full((3, 2, 8), -math.log(8))
    assert cross_view_entropy(torch.eye(8)[:4].view(2, 2, 8), log_p).tolist() == pytest.approx(
        [math.log(8)] * 2
    )
