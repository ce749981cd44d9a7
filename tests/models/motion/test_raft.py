"""Flow by RAFT with weights from a file: in the views' own pixels, and no other network's."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import optical_flow

from augment.ops import ColorJitter
from augment.recipe import CropGroup, Views
from jobs.setup.failures import InputError
from jobs.training.clip_config import ClipConfig
from models.motion import raft
from models.motion.raft import Raft


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file as training scripts save it: names with a prefix, in an entry of their own."""
    torch.manual_seed(0)
    state = optical_flow.raft_small(weights=None).state_dict()
    place = tmp_path_factory.mktemp("raft") / "small.pth"
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, place)
    return str(place)


def clips(side: int, num_frames: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 1, num_frames, 3, side, side), generator=generator).byte()


class _Moves(nn.Module):
    """A network in whose pixels all moves 8 to the right and 4 down, at the second glance."""

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        assert first.min() >= -1 and first.max() <= 1 and first.shape == second.shape
        assert min(first.shape[2:]) >= 128 and not any(side % 8 for side in first.shape[2:])
        flow = first.new_tensor([8.0, 4.0]).view(1, 2, 1, 1).expand(len(first), 2, *first.shape[2:])
        return [0 * flow, flow]


def test_flow_is_in_pixels_of_the_view_and_none_where_nothing_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(raft, "_network", lambda *_: _Moves())
    monkeypatch.setattr(raft, "_PAIRS", 3)
    frames = clips(32)
    frames[1, 0, 2] = frames[1, 0, 1]
    flow = Raft("raft_small", "unread")(frames)
    assert flow.shape == (2, 1, 2, 2, 32, 32) and flow.dtype == torch.float16
    assert (flow[0, 0, :, 0] == 2).all() and (flow[0, 0, :, 1] == 1).all()  # 128 px are 32
    assert not flow[1, 0, 1].any() and flow[1, 0, 0].any()
    wide = Raft("raft_small", "unread")(clips(130))
    assert wide[..., 0, :, :].unique().item() == pytest.approx(8 * 130 / 136, abs=0.01)


def test_torchvisions_network_computes_what_it_computes(weights: str) -> None:
    frames = clips(128, 2)
    found = Raft("raft_small", weights)(frames)
    torch.manual_seed(0)
    network = optical_flow.raft_small(weights=None).eval()
    with torch.no_grad():
        first, second = (frames[:, 0, time].float() / 127.5 - 1 for time in (0, 1))
        expected = network(first, second)[-1]
    torch.testing.assert_close(found[:, 0, 0].float(), expected, rtol=1e-2, atol=1e-2)


def flow_of(**settings: object) -> Raft | None:
    return ClipConfig.model_validate(settings).flow_network()


def test_what_is_no_file_of_the_network_is_refused_in_one_line(
    weights: str, tmp_path: Path
) -> None:
    assert flow_of(flow="dis") is None and flow_of() is None
    lacking = {"fnet.weight": torch.zeros(3)}
    torch.save(lacking, tmp_path / "other.pth")
    for settings, said in (
        ({"flow": "raft_small"}, "clip.flow raft_small needs clip.flow_weights"),
        ({"flow_weights": f"{tmp_path}/gone.pth"}, r"clip.flow_weights .*gone.pth is no file"),
        ({"flow_weights": f"{tmp_path}/other.pth"}, r"not of torchvision's raft_small: it lacks"),
        ({"flow": "raft_large", "flow_weights": weights}, r"not of torchvision's raft_large"),
    ):
        with pytest.raises(InputError, match=said) as error:
            flow_of(**{"flow": "raft_small", **settings})
        assert "\n" not in str(error.value)


def test_colours_are_those_of_the_video_where_the_network_looks(weights: str) -> None:
    clip = ClipConfig(flow="raft_small", flow_weights=weights, num_frames=2)
    group = CropGroup(color_jitter=ColorJitter(p=1.0))
    views = {
        place: Views(size=32, placement=place, groups={"global_crops": group})
        for place in ("worker", "decode")
    }
    clip.check_flow("common_fate", views["worker"], takes_flow=True)
    with pytest.raises(InputError, match=r"set views\.placement=worker"):
        clip.check_flow("common_fate", views["decode"], takes_flow=True)
