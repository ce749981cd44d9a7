"""The tensors in a file of weights, whoever wrote it. Nothing in it is ever executed."""

import argparse
import io
import json
from collections.abc import Iterator, Mapping
from pickle import UnpicklingError
from typing import Any

import fsspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

IN_A_FOLDER = ("encoder.safetensors", "artifact/encoder.safetensors", "model.safetensors")
"""Which file of a folder holds the weights: of an artifact, of a run, of a model hub."""
_NOT_WEIGHTS = ("optim", "scaler", "scheduler", "lr_sched", "best")
_FIRST_OF_JSON = b"{"
_LENGTH_BYTES = 8


def read_weights(uri: str, *, key: str = "encoder.weights") -> dict[str, Tensor]:
    """Read all tensors of a file, or of an artifact, by dotted names.

    A checkpoint that holds dictionaries in dictionaries is flattened: `teacher`, then
    `backbone.norm.weight`, becomes `teacher.backbone.norm.weight`. States of optimisers are left
    out.

    Args:
        uri: safetensors, a torch checkpoint that loads with `weights_only=True`, an artifact's
            folder or a run's; local or of any filesystem of fsspec.
        key: The setting that names it, for errors.

    Raises:
        ValueError: there is nothing, or no tensors, or more than tensors and plain values.
    """
    data = _read(uri, key)
    try:
        loaded = _loaded(data)
    except UnpicklingError as error:
        raise ValueError(
            f"{key} {uri} holds more than tensors and plain values, and is not unpickled"
            f" ({_short(error)}): save its state dict alone"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"{key} {uri} is neither safetensors nor a checkpoint of torch, or it is"
            f" damaged ({_short(error)})"
        ) from None
    tensors = dict(_flat(loaded))
    if not tensors:
        raise ValueError(f"{key} {uri} holds no tensors: give a state dict")
    return tensors


def _read(uri: str, key: str) -> bytes:
    filesystem, path = fsspec.url_to_fs(uri)
    path = path.rstrip("/")
    try:
        for file in (path, *(f"{path}/{name}" for name in IN_A_FOLDER)):
            if filesystem.isfile(file):
                return bytes(filesystem.cat_file(file))
    except OSError as error:
        raise ValueError(f"{key} {uri} cannot be read: {_short(error)}") from None
    raise ValueError(
        f"{key} {uri} is no file of weights and no artifact: give a .safetensors or .pth"
        " file, or the folder of an artifact"
    )


def _loaded(data: bytes) -> Any:
    if _is_safetensors(data):
        return safetensors.torch.load(data)
    # Published checkpoints often hold their command line beside the weights: a record without code.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _is_safetensors(data: bytes) -> bool:
    """Tell whether a file begins with the length of a JSON header and that header."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = data[_LENGTH_BYTES : _LENGTH_BYTES + length]
    if not header.startswith(_FIRST_OF_JSON) or len(header) != length:
        return False
    try:
        json.loads(header)
    except ValueError:
        return False
    return True


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if not isinstance(tree, Mapping):
        return
    for key, value in tree.items():
        name = str(key)
        if isinstance(value, Tensor):
            yield prefix + name, value.detach()
        elif not name.startswith(_NOT_WEIGHTS):
            yield from _flat(value, f"{prefix}{name}.")


def _short(error: BaseException) -> str:
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    return first[:160]
