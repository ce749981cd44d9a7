"""HHA: depth as three channels that say what depth alone hides (Gupta 2014, arXiv:1407.5736).

Horizontal disparity tells near from far, height above ground and the angle with gravity tell floors
from walls and tables. Where gravity points is estimated from the surfaces themselves, as floors and
walls are parallel or at right angles to it (Gupta 2013, "Perceptual organization and recognition of
indoor scenes from RGB-D images").

Camera coordinates: x to the right, y down, z forward, metres.
"""

import math

import torch
from torch import Tensor

_WINDOW = 3  # px to each side, of which a surface is fitted
_SAME_SURFACE = 0.05  # share of the depth by which neighbours may differ
_LOWEST = 0.01  # share of the points below the ground: sensors err
# Half-angles of what counts as along or across gravity, degrees, coarse first (Gupta 2013)
_CONES = (45.0,) * 5 + (15.0,) * 5
# Weight of the last estimate. It decides only what the surfaces leave open: one wall alone tells
# but a plane in which gravity lies.
_INERTIA = 1e-3


@torch.no_grad()
def hha(depth: Tensor, intrinsics: Tensor, *, gravity: Tensor | None = None) -> Tensor:
    """Turn depth into horizontal disparity, height above ground and angle with gravity.

    Args:
        depth: Distance along the optical axis (B, H, W), metres, any dtype; 0, negative or not
            finite where it is unknown.
        intrinsics: Focal lengths and principal point (B, 4): fx, fy, cx, cy, px of these images,
            the centre of the first pixel being (0, 0).
        gravity: Directions (B, 3) in which things fall, camera coordinates; None: estimated, for a
            camera held upright within 45 degrees.

    Returns:
        (B, 3, H, W) float32: disparity for a baseline of focal length times one metre, 1/m; height
        above the lowest hundredth of the points, m; angle of the surface's outward normal with
        straight up, degrees, 0 on floors, 90 on walls, 180 on ceilings. NaN where it is unknown:
        all of a pixel without depth, the angle where too few of its neighbours are on its surface.

    Raises:
        ValueError: another shape, or a focal length that is not above 0.
    """
    _check(depth, intrinsics, gravity)
    with torch.autocast(depth.device.type, enabled=False):
        depth = depth.float()
        known = torch.isfinite(depth) & (depth > 0)
        disparity = torch.where(known, 1 / depth, torch.nan)
        normals = surface_normals(depth, intrinsics)
        if gravity is None:
            gravity = estimate_gravity(normals)
        down = torch.nn.functional.normalize(gravity.float(), dim=1)
        fall = torch.einsum("bc,bchw->bhw", down, _rays(depth, intrinsics)) * depth
        height = _above_ground(torch.where(known, -fall, torch.nan))
        cosine = torch.einsum("bc,bchw->bhw", -down, normals)
        angle = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    return torch.stack([disparity, height, angle], dim=1)


def hha_image(channels: Tensor, *, nearest_m: float = 0.5, highest_m: float = 3.0) -> Tensor:
    """Scale what `hha` returns to an image.

    Args:
        channels: (..., 3, H, W) of `hha`.
        nearest_m: Distance of which the disparity is 1, and of all that is nearer.
        highest_m: Height that is 1, and all above.

    Returns:
        Same shape, float32, angles divided by 180 degrees. What is known lies in [1 / 255, 1], of
        what is unknown all is 0: the two are told apart in 8 bits.
    """
    scale = channels.new_tensor([nearest_m, 1 / highest_m, 1 / 180]).view(3, 1, 1)
    known = ((channels * scale).clamp(0, 1) * 254 + 1) / 255
    return known.nan_to_num(0)


@torch.no_grad()
def surface_normals(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Fit a plane to the surroundings of each pixel.

    In an image of a plane 1 / depth is linear, so a linear fit to it is exact on planes. Neighbours
    whose depth differs by more than a twentieth are taken to be of another surface.

    Args:
        depth: As in `hha`.
        intrinsics: As in `hha`.

    Returns:
        Unit vectors towards the camera (B, 3, H, W) float32; NaN where fewer than three known
        neighbours, or those in one line, are on the surface.
    """
    depth = depth.float()
    known = torch.isfinite(depth) & (depth > 0)
    inverse = torch.where(known, 1 / depth, torch.inf)  # differs from any by more than is allowed
    moments = _moments(inverse, known)
    count = moments.pop("1")
    mean = {name: total / count.clamp(min=1) for name, total in moments.items()}
    x, y, q = (mean[name] for name in ("x", "y", "q"))
    var_x = mean["xx"] - x * x
    var_y = mean["yy"] - y * y
    var_xy = mean["xy"] - x * y
    cov_x = mean["xq"] - x * q
    cov_y = mean["yq"] - y * q
    spread = var_x * var_y - var_xy * var_xy
    right = (cov_x * var_y - cov_y * var_xy) / spread  # of 1 / depth, a pixel to the right
    below = (cov_y * var_x - cov_x * var_xy) / spread
    middle = 1 + q - right * x - below * y  # of the plane where the pixel is, in units of its own
    fx, fy, cx, cy = intrinsics.float().view(-1, 4, 1, 1).unbind(1)
    columns, rows = _pixels(depth)
    # 1 / depth = normal . ray / distance from the origin
    normal = torch.stack(
        [right * fx, below * fy, middle - right * (columns - cx) - below * (rows - cy)], dim=1
    )
    normal = -normal * normal.square().sum(1, keepdim=True).rsqrt()  # rays go away from the camera
    fits = known & (count >= 3) & (spread > 1e-3)
    return torch.where(fits.unsqueeze(1), normal, torch.nan)


@torch.no_grad()
def estimate_gravity(normals: Tensor) -> Tensor:
    """Find the direction to which surfaces are most nearly parallel or at right angles.

    Args:
        normals: Of `surface_normals` (B, 3, H, W), NaN where there is none.

    Returns:
        Unit vectors (B, 3) float32, camera coordinates; straight down the image where no surface
        says otherwise.
    """
    points = normals.flatten(2).nan_to_num(0)  # (B, 3, N)
    gravity = points.new_tensor([0.0, 1.0, 0.0]).expand(len(points), 3)
    for cone in _CONES:
        cosine = torch.einsum("bc,bcn->bn", gravity, points).abs()
        along = cosine > math.cos(math.radians(cone))
        across = cosine < math.sin(math.radians(cone))
        weight = across.to(points.dtype) - along.to(points.dtype)
        there = points.square().sum(1)  # 1 for each normal, 0 for none
        share = 1 / there.sum(1).clamp(min=1).view(-1, 1, 1)
        scatter = torch.einsum("bin,bn,bjn->bij", points, weight, points) * share
        scatter = scatter - _INERTIA * gravity.unsqueeze(2) * gravity.unsqueeze(1)
        found = torch.linalg.eigh(scatter.double())[1][:, :, 0].to(points.dtype)
        same_way = (found * gravity).sum(1, keepdim=True) >= 0
        gravity = torch.where(same_way, found, -found)
    return gravity


def _moments(inverse: Tensor, known: Tensor) -> dict[str, Tensor]:
    """Sum over each pixel's neighbours on its surface (B, H, W): offsets x and y, and how far 1 /
    depth differs from its own, in units of that."""
    names = ("1", "x", "y", "q", "xx", "yy", "xy", "xq", "yq")
    sums = {name: torch.zeros_like(inverse) for name in names}
    height, width = inverse.shape[1:]
    wide = torch.nn.functional.pad(inverse, [_WINDOW] * 4, value=torch.inf)
    unit = 1 / torch.where(known, inverse, 1)
    for y in range(-_WINDOW, _WINDOW + 1):
        row = {name: torch.zeros_like(inverse) for name in ("1", "x", "xx", "q", "xq")}
        for x in range(-_WINDOW, _WINDOW + 1):
            top = y + _WINDOW
            left = x + _WINDOW
            q = wide[:, top : top + height, left : left + width] * unit - 1
            same = q.abs() <= _SAME_SURFACE
            q = torch.where(same, q, 0)
            row["1"].add_(same)
            row["x"].add_(same, alpha=x)
            row["xx"].add_(same, alpha=x * x)
            row["q"].add_(q)
            row["xq"].add_(q, alpha=x)
        for name, total in row.items():
            sums[name].add_(total)
        for name, of in (("y", "1"), ("xy", "x"), ("yq", "q")):
            sums[name].add_(row[of], alpha=y)
        sums["yy"].add_(row["1"], alpha=y * y)
    return sums


def _above_ground(height: Tensor) -> Tensor:
    """Subtract the height of the ground from (B, H, W), NaN where it is unknown."""
    ordered = height.flatten(1).nan_to_num(torch.inf).sort(1)[0]
    rank = (torch.isfinite(ordered).sum(1, keepdim=True) * _LOWEST).long()
    return height - ordered.gather(1, rank).unsqueeze(2)


def _rays(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Return where each pixel's ray is at a depth of 1, (B, 3, H, W)."""
    fx, fy, cx, cy = intrinsics.float().view(-1, 4, 1, 1).unbind(1)
    columns, rows = _pixels(depth)
    x, y = torch.broadcast_tensors((columns - cx) / fx, (rows - cy) / fy)
    return torch.stack([x, y, torch.ones_like(x)], dim=1)


def _pixels(depth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns (1, 1, W) and rows (1, H, 1) of pixels."""
    height, width = depth.shape[1:]
    columns = torch.arange(width, device=depth.device, dtype=torch.float32)
    rows = torch.arange(height, device=depth.device, dtype=torch.float32)
    return columns.view(1, 1, -1), rows.view(1, -1, 1)


def _check(depth: Tensor, intrinsics: Tensor, gravity: Tensor | None) -> None:
    if depth.ndim != 3:
        raise ValueError(f"depth must be (B, H, W), got {tuple(depth.shape)}")
    if intrinsics.shape != (len(depth), 4):
        raise ValueError(
            f"intrinsics must be ({len(depth)}, 4), fx, fy, cx and cy of each image; got"
            f" {tuple(intrinsics.shape)}"
        )
    if not bool((intrinsics[:, :2] > 0).all()):
        raise ValueError("focal lengths must be above 0 px")
    if gravity is not None and gravity.shape != (len(depth), 3):
        raise ValueError(f"gravity must be ({len(depth)}, 3), got {tuple(gravity.shape)}")
