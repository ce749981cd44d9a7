"""Optical flow between two frames by OpenCV, which is an extra."""

from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

import numpy as np

FlowKind = Literal["dis", "farneback"]
INSTALL = "pip install 'afield[flow]'"
_SMALLEST = 16  # px; OpenCV's pyramids need as many


def lacking() -> str | None:
    """Say what flow needs and is not installed; None where nothing is lacking."""
    return None if find_spec("cv2") else f"OpenCV, which is not installed: {INSTALL}"


@cache
def _opencv() -> ModuleType:
    import cv2  # here, as it is an extra

    cv2.setNumThreads(1)  # the parallelism is Ray's
    return cv2


@cache
def _dis() -> Any:
    cv2 = _opencv()
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def flow_between(first: np.ndarray, second: np.ndarray, kind: FlowKind) -> np.ndarray:
    """Find where each place of a frame has moved to in the next.

    Args:
        first: (3, S, S) uint8 RGB.
        second: The same.
        kind: "dis", dense inverse search (arXiv:1603.03590); or "farneback", polynomial expansion
            (Farneback 2003).

    Returns:
        (2, S, S) float32: how far to the right and how far down, px.
    """
    if np.array_equal(first, second):  # DIS refines nothing to something
        return np.zeros((2, *first.shape[1:]), np.float32)
    cv2 = _opencv()
    before, after = (
        cv2.cvtColor(np.ascontiguousarray(frame.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)
        for frame in (first, second)
    )
    side = min(before.shape)
    scale = -(-_SMALLEST // side)
    if scale > 1:
        before, after = (
            cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
            for frame in (before, after)
        )
    if kind == "dis":
        found = _dis().calc(before, after, None)
    else:
        # pyramid scale, levels, window, iterations, neighbourhood, its sigma: OpenCV's own sample
        found = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    found = found[::scale, ::scale] / scale
    return np.ascontiguousarray(found.transpose(2, 0, 1))


def mean_motion(first: np.ndarray, second: np.ndarray, kind: FlowKind) -> float:
    """Measure how far the places of a frame have moved in the next, as a share of the longer side.

    Args:
        first: (H, W, 3) uint8 RGB.
        second: The same.
        kind: As of `flow_between`.
    """
    flow = flow_between(first.transpose(2, 0, 1), second.transpose(2, 0, 1), kind)
    lengths = np.hypot(flow[0], flow[1])
    return float(lengths.mean() / max(first.shape[:2]))
