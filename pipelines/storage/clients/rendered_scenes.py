"""Rendered scenes as files that are made when they are read: `synthetic://scenes?seed=0&num=1000`.

A corpus without end for tests and for who has no data. Nothing is kept anywhere: file n is scene n
of the seed, whoever reads it, so it is listed, planned, streamed and resumed as any other source.
"""

import io
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from fsspec import AbstractFileSystem

PROTOCOL = "synthetic"
_ROOT = "scenes"
_PER_FOLDER = 1000
_SUFFIX = ".ppm"  # its length is known before it is made


class Scenes(NamedTuple):
    """Which scenes a URI names.

    Attributes:
        seed: Of all of them.
        num: How many.
        size: Their side, px.
    """

    seed: int = 0
    num: int = 1000
    size: int = 64

    @property
    def folder(self) -> str:
        """Return the path of their folder."""
        told = ",".join(f"{key}={value}" for key, value in self._asdict().items())
        return f"{_ROOT}/{told}"


_LEAST = Scenes(seed=0, num=1, size=8)
_MOST = Scenes(seed=2**62, num=10**9, size=1024)


def canonical(uri: str) -> str:
    """Return the URI of scenes with all that they depend on in its path; one of a file or folder
    within them as it is.

    Raises:
        ValueError: an unknown key, or a value that is none.
    """
    parts = urlsplit(uri)
    path = f"{parts.netloc}{parts.path}".strip("/")
    if path.startswith(f"{_ROOT}/") and not parts.query:
        _, inside, *_ = path.split("/")
        _read(uri, [_pair(word) for word in inside.split(",")])
        return uri
    if path != _ROOT:
        raise ValueError(f"{uri} is not known: write {PROTOCOL}://{_ROOT}?seed=0&num=1000&size=64")
    found = _read(uri, parse_qsl(parts.query, keep_blank_values=True))
    return f"{PROTOCOL}://{found.folder}"


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key, value


def _read(uri: str, pairs: list[tuple[str, str]]) -> Scenes:
    values: dict[str, int] = {}
    for key, value in pairs:
        if key not in Scenes._fields:
            raise ValueError(f"{uri}: unknown key {key}: choose from {', '.join(Scenes._fields)}")
        low = getattr(_LEAST, key)
        high = getattr(_MOST, key)
        if not value.isdecimal() or not low <= int(value) <= high:
            raise ValueError(f"{uri}: {key} must be a whole number from {low} to {high}")
        values[key] = int(value)
    return Scenes(**values)


class SceneFiles(AbstractFileSystem):
    """A read-only file system of rendered scenes, a thousand a folder."""

    protocol = PROTOCOL
    cachable = True

    def __init__(self, retry_s: float | None = None, **options: Any) -> None:
        super().__init__(**options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """List a folder."""
        found = self._list(self._strip_protocol(path).strip("/"))
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Describe a file or folder.

        Raises:
            FileNotFoundError: there is none.
        """
        path = self._strip_protocol(path).strip("/")
        scenes, folder, name = _parts(path)
        if name is not None:
            return _file(scenes, _number(path, scenes, folder, name))
        if folder is not None and folder not in range(_folders(scenes)):
            raise FileNotFoundError(path)
        return _folder(path)

    def _list(self, path: str) -> list[dict[str, Any]]:
        scenes, folder, name = _parts(path)
        if name is not None:
            return [self.info(path)]
        if folder is None:
            return [_folder(f"{scenes.folder}/{place:06d}") for place in range(_folders(scenes))]
        self.info(path)
        first = folder * _PER_FOLDER
        return [
            _file(scenes, number) for number in range(first, min(first + _PER_FOLDER, scenes.num))
        ]

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        """Render a file, or a part of its bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        path = self._strip_protocol(path).strip("/")
        scenes, folder, name = _parts(path)
        if name is None:
            raise FileNotFoundError(path)
        return _rendered(scenes, _number(path, scenes, folder, name))[start:end]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            raise PermissionError(f"{path} cannot be written: scenes are rendered")
        return io.BytesIO(self.cat_file(path))


def _parts(path: str) -> tuple[Scenes, int | None, str | None]:
    """Split a path into its scenes, the number of its folder and the name of its file."""
    words = path.split("/")
    if len(words) not in (2, 3, 4) or words[0] != _ROOT:
        raise FileNotFoundError(path)
    scenes = _read(path, [_pair(word) for word in words[1].split(",")])
    if len(words) == 2:
        return scenes, None, None
    if not words[2].isdecimal():
        raise FileNotFoundError(path)
    return scenes, int(words[2]), words[3] if len(words) == 4 else None


def _folders(scenes: Scenes) -> int:
    return -(-scenes.num // _PER_FOLDER)


def _number(path: str, scenes: Scenes, folder: int | None, name: str) -> int:
    """Return the number of a file's scene."""
    stem = name.removesuffix(_SUFFIX)
    number = int(stem) if stem.isdecimal() and stem != name else -1
    if not 0 <= number < scenes.num or folder != number // _PER_FOLDER:
        raise FileNotFoundError(path)
    return number


def _folder(path: str) -> dict[str, Any]:
    return {"name": path, "size": 0, "type": "directory"}


def _file(scenes: Scenes, number: int) -> dict[str, Any]:
    return {
        "name": f"{scenes.folder}/{number // _PER_FOLDER:06d}/{number:09d}{_SUFFIX}",
        "size": len(_head(scenes)) + 3 * scenes.size**2,
        "type": "file",
        "etag": f"{scenes.seed}-{number}",
    }


def _head(scenes: Scenes) -> bytes:
    return f"P6\n{scenes.size} {scenes.size}\n255\n".encode()


def _rendered(scenes: Scenes, number: int) -> bytes:
    import torch  # here, as whoever lists scenes renders none

    from augment.scenes.renderer import render

    made = render(seed=scenes.seed, scene=torch.tensor([number]), size=scenes.size)
    pixels = (made.images[0] * 255).round().to(torch.uint8).permute(1, 2, 0)
    return _head(scenes) + pixels.contiguous().numpy().tobytes()
