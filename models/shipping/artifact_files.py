"""Files of an artifact: written whole or not at all, as bytes that are the same every time."""

import json
import os
import uuid
from typing import Any

import fsspec
import safetensors.torch
from fsspec.implementations.local import LocalFileSystem
from torch import nn


def serialised(module: nn.Module) -> bytes:
    """Return a module's tensors as safetensors."""
    weights: bytes = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    )
    return weights


def as_json(value: dict[str, Any], indent: int | None = None) -> str:
    """Write plain values, their keys in order.

    Raises:
        ValueError: they are not plain.
    """
    try:
        return json.dumps(value, sort_keys=True, indent=indent, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"an artifact's config, preprocess and provenance must be plain JSON: {error}"
        ) from error


def write(uri: str, name: str, data: bytes) -> None:
    """Make the file appear whole or not at all: by a rename locally; an object store's put is that
    already."""
    filesystem, folder = fsspec.url_to_fs(uri)
    path = f"{folder.rstrip('/')}/{name}"
    if not isinstance(filesystem, LocalFileSystem):
        filesystem.pipe_file(path, data)
        return
    os.makedirs(folder, exist_ok=True)
    # Hidden: a process that is killed before the rename leaves it behind.
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def read(uri: str, name: str) -> bytes:
    """Read a file.

    Raises:
        FileNotFoundError: there is none.
    """
    filesystem, folder = fsspec.url_to_fs(uri)
    data: bytes = filesystem.cat_file(f"{folder.rstrip('/')}/{name}")
    return data
