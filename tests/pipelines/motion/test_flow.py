"""Flow that belongs to the views: right on known motion, cut and mirrored as they are."""

import numpy as np
import pytest
from PIL import Image

from augment.ops import ColorJitter
from augment.picture import Picture
from augment.recipe import CropGroup, Views
from jobs.setup.failures import InputError
from jobs.training.clip_config import ClipConfig
from pipelines import schema
from pipelines.motion.flow import WithFlow
from pipelines.motion.optical_flow import FlowKind, flow_between
from pipelines.stream.shapes import Clips, Crops

KINDS: tuple[FlowKind, ...] = ("dis", "farneback")


def pan(photograph: np.ndarray, across: int, down: int, side: int = 96) -> np.ndarray:
    """Frames (3, side, side, 3) of a camera that moves by so much a frame: all moves the other
    way."""
    frames = [
        photograph[60 + down * t : 60 + down * t + side, 60 + across * t : 60 + across * t + side]
        for t in range(3)
    ]
    return np.stack(frames)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("across", "down"), [(3, 0), (0, -2), (-2, 2)])
def test_flow_of_a_known_pan_is_the_pans(
    photographs: list[np.ndarray], kind: FlowKind, across: int, down: int
) -> None:
    frames = pan(photographs[4], across, down).transpose(0, 3, 1, 2)
    found = flow_between(frames[0], frames[1], kind)[:, 12:-12, 12:-12]
    assert np.median(found, axis=(1, 2)) == pytest.approx([-across, -down], abs=0.25)
    assert not flow_between(frames[0], frames[0], kind).any()


@pytest.mark.parametrize("kind", KINDS)
def test_frames_smaller_than_opencv_takes_have_flow_in_their_own_pixels(
    photographs: list[np.ndarray], kind: FlowKind
) -> None:
    wide = Image.fromarray(photographs[0][:96, :144]).resize((18, 12), Image.Resampling.BOX)
    frames = np.array(wide).transpose(2, 0, 1)
    found = flow_between(frames[:, :, :12], frames[:, :, 1:13], kind)
    assert found.shape == (2, 12, 12)
    assert np.median(found[0, 3:-3, 3:-3]) == pytest.approx(-1, abs=0.5)


def columns_of(
    views: Views, clips: list[np.ndarray], *, photometric: bool
) -> dict[str, np.ndarray]:
    crops = Crops(views, 0, photometric=photometric)
    shape = WithFlow(Clips(crops, 3), crops, 3, "dis")
    columns = shape.empty(len(clips))
    keys = np.zeros(len(clips), np.int64), np.arange(len(clips)) * 7919
    filler = shape.filler(columns, *keys)
    for row, clip in enumerate(clips):
        filler.fill(row, Picture.whole(np.ascontiguousarray(clip)))
    return columns


def views_with(flip: float, jitter: ColorJitter | None = None) -> Views:
    group = CropGroup(count=2, scale=(0.4, 0.6), flip=flip, color_jitter=jitter)
    return Views(size=48, groups={"global_crops": group})


def test_flow_is_that_of_the_views_wherever_colours_change(
    photographs: list[np.ndarray],
) -> None:
    clips = [pan(photographs[index], 3, 0) for index in range(3)] + [photographs[3][:90, :90]]
    strong = ColorJitter(p=1.0, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.3)
    plain = columns_of(views_with(0.5), clips, photometric=True)
    coloured = columns_of(views_with(0.5, strong), clips, photometric=True)
    elsewhere = columns_of(views_with(0.5, strong), clips, photometric=False)
    flow = plain[schema.FLOW]
    assert flow.shape == (4, 2, 2, 2, 48, 48) and flow.dtype == np.float16
    assert not np.array_equal(coloured["global_crops"], elsewhere["global_crops"])
    assert np.array_equal(flow, coloured[schema.FLOW])
    assert np.array_equal(flow, elsewhere[schema.FLOW])
    assert not flow[3].any()  # a still image
    clip = plain["global_crops"][1, 1]
    assert np.array_equal(flow[1, 1, 0], flow_between(clip[0], clip[1], "dis").astype(np.float16))


def test_a_mirrored_view_moves_the_other_way_and_a_larger_one_further(
    photographs: list[np.ndarray],
) -> None:
    clips = [pan(photographs[0], 3, 0)] * 6
    upright = columns_of(views_with(0.0), clips, photometric=False)
    mirrored = columns_of(views_with(1.0), clips, photometric=False)
    assert np.array_equal(mirrored["global_crops"], upright["global_crops"][..., ::-1])
    inner = (..., slice(8, -8), slice(8, -8))
    sideways = [np.median(found[schema.FLOW][inner][:, :, :, 0]) for found in (upright, mirrored)]
    assert sideways[0] < -1 and sideways[1] == pytest.approx(-sideways[0], abs=0.2)


def test_flow_that_would_not_be_the_views_or_is_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views = views_with(0.5)
    given = ClipConfig(flow="dis")
    given.check_flow("m", views, takes_flow=True)
    ClipConfig().check_flow("m", views, takes_flow=False)
    with pytest.raises(InputError, match=r"method\.name=m takes optical flow: set clip\.flow=dis"):
        ClipConfig().check_flow("m", views, takes_flow=True)
    with pytest.raises(InputError, match=r"clip\.flow dis: method\.name=m takes none"):
        given.check_flow("m", views, takes_flow=False)
    with pytest.raises(InputError, match=r"needs clip\.num_frames of 2"):
        ClipConfig(flow="dis", num_frames=1).check_flow("m", views, takes_flow=True)
    turned = CropGroup.model_validate({"rotate": {"p": 1.0, "degrees": 30.0}})
    with pytest.raises(InputError, match=r"views\.groups\.global_crops\.rotate would turn"):
        given.check_flow("m", Views(size=48, groups={"global_crops": turned}), takes_flow=True)
    monkeypatch.setattr("pipelines.motion.optical_flow.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"clip\.flow dis needs OpenCV, .*pip install 'afield"):
        given.check_flow("m", views, takes_flow=True)
