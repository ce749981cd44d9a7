"""The sections of a model card."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from jobs.publishing.equality import TOLERANCE
from jobs.publishing.probe_results import Score
from models.artifact import Artifact
from models.publishing.form import EMBEDDING, preparation
from models.supervised.head import HeadConfig

_HEALTH = {
    "loss": "training loss",
    "feature_std": "standard deviation of the normalised features of a batch",
    "rankme": "effective rank (RankMe) of a batch's features",
    "health_rankme": "effective rank (RankMe) of images of the corpus; higher is richer",
    "health_alpha_req": "alpha-ReQ, the decay of the spectrum; about 1 is healthy",
    "health_alignment": "alignment of two views of an image; 0: they coincide",
    "health_uniformity": "uniformity on the sphere; lower is more even",
    "health_variation": "share of the embeddings' squared length that tells images apart",
    "health_spread": "spread of the projections; 1 is an even spread",
    "info_nce_bound": "mutual information of two views, at least, in nats",
}
_INTENDED = (
    "Frozen features for retrieval, clustering, finding duplicates, and for small models trained"
    " on few labels; or the start of training on images like those it was {learnt} on."
)
_TELLS = {
    "class": "the class of an image, one of {}",
    "classes": "which of {} classes an image has",
    "mask": "the class of each pixel, one of {}",
    "boxes": "boxes around objects of {} classes",
}
_MOST_CLASSES = 200  # named in a card
_BIAS = {
    False: "- It was trained without labels: it carries whatever imbalance and bias its images"
    " have, and nobody chose what it holds alike.",
    True: "- It tells what its labels told it, with their errors and imbalance; of anything that"
    " is none of its classes it tells one of them.",
}
_PREPARE = """\
```python
import numpy as np
import torch
from PIL import Image


def prepare(image):  # an image of Pillow -> (1, 3, {size}, {size})
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
    side = min(pixels.shape[2:])
    top, left = ((length - side) // 2 for length in pixels.shape[2:])
    pixels = pixels[:, :, top : top + side, left : left + side]
    pixels = torch.nn.functional.interpolate(
        pixels, size=({size}, {size}), mode="bilinear", antialias=True
    )
    mean = torch.tensor({mean}).view(3, 1, 1)
    std = torch.tensor({std}).view(3, 1, 1)
    return (pixels - mean) / std
```"""
_TITLES = {
    "timm": "timm",
    "torchvision": "torchvision",
    "onnx": "ONNX, any number of images at once",
    "torch_export": "torch.export, any number of images at once",
    "safetensors": "Afield's own names",
}


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """Return a table of Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def files(checks: Mapping[str, Mapping[str, Any]], left_out: Mapping[str, str]) -> str:
    """Tell which files there are and how each was checked."""
    rows = [
        (
            form,
            ", ".join(f"`{name}`" for name in check["files"]),
            f"{sum(check['files'].values()) / 2**20:.1f} MiB",
            " and ".join(check.get("outputs", [EMBEDDING])),
            f"{check['difference']:.1e}",
            ", ".join(f"{name} {version}" for name, version in check["packages"].items()),
        )
        for form, check in checks.items()
    ]
    head = ("form", "files", "size", "gives", "difference", "checked with")
    text = (
        f"{table(head, rows)}\n\nEach form was loaded by its own library and what it gives was"
        " compared with what was trained, on crops of a photograph. The difference is the largest"
        f" one, as a share of the largest value; beyond {TOLERANCE:.0e} a form is not published."
    )
    missing = "\n".join(f"- no {form}: {reason}" for form, reason in left_out.items())
    return f"{text}\n\n{missing}" if missing else text


def what_is_told(head: HeadConfig) -> str:
    """Say what a head tells."""
    return _TELLS[head.task].format(len(head.classes))


def classes(artifact: Artifact, alone: Mapping[str, str]) -> str:
    """Tell what the head tells, what its scores mean, and which forms do without it."""
    assert artifact.head is not None
    head = artifact.head.config
    by = "sigmoid of each" if head.task == "classes" else "softmax"
    told = [f"The head tells {what_is_told(head)}."]
    if head.task in ("class", "classes"):
        told.append(f"Probabilities are the {by} of the logits; both come in the order of classes.")
    names = ", ".join(f"`{name}`" for name in head.classes[:_MOST_CLASSES])
    if len(head.classes) > _MOST_CLASSES:
        names += f" and {len(head.classes) - _MOST_CLASSES} more, all of them in the files"
    missing = [f"- {form} holds the encoder alone: {reason}" for form, reason in alone.items()]
    return "\n\n".join(filter(None, [" ".join(told), names, "\n".join(missing)]))


def intended(artifact: Artifact) -> str:
    """Tell what it may be used for."""
    if artifact.head is None:
        return f"{_INTENDED.format(learnt='pretrained')} It names no classes by itself."
    told = what_is_told(artifact.head.config)
    features = _INTENDED.format(learnt="trained")
    return f"To tell {told}, in images like those it was trained on. {features}"


def preparing(artifact: Artifact) -> str:
    """Tell how an image becomes the input, in words and in Python."""
    said = preparation(artifact)
    rows = [(name, f"`{value}`") for name, value in said.items()]
    code = _PREPARE.format(size=artifact.image_size, mean=said["mean"], std=said["std"])
    return f"{table(('', ''), rows)}\n\n{code}"


def loading(usages: Mapping[str, str], *, clips: bool) -> str:
    """Show for each form how it is loaded, in the folder of the files."""
    given = (
        "`images` are clips, (B, T, 3, S, S), whose frames are each prepared as above."
        if clips
        else "`images` are prepared as above, (B, 3, S, S)."
    )
    blocks = [f"{_TITLES[form]}:\n\n```python\n{code}\n```" for form, code in usages.items()]
    return "\n\n".join([given, *blocks])


def health(last: Mapping[str, Any], *, labelled: bool = False) -> str:
    """Tell the figures by which the run was watched, at the step of the weights."""
    rows = [
        (words, f"{last[name]:.4g}")
        for name, words in _HEALTH.items()
        if isinstance(last.get(name), float | int) and math.isfinite(last[name])
    ]
    if not rows:
        return "No figures were recorded."
    how = "" if labelled else ", without labels"
    step = f"At step {last['step']:,}{how}:\n\n" if "step" in last else ""
    return f"{step}{table(('figure', 'value'), rows)}"


def probes(scores: list[Score]) -> str:
    """Tell what probes have measured, with intervals and beside the baselines."""
    if not scores:
        return "None was recorded: what the features are worth for a task has not been measured."
    rows = []
    for score in scores:
        interval = "{:.1%} to {:.1%}".format(*score.interval) if score.interval else ""
        baselines = [f"{name} {value:.1%}" for name, value in score.baselines.items()]
        counts = [
            f"{score.counts[name]:,} {words}"
            for name, words in (
                ("num_classes", "classes"),
                ("num_train", "training images"),
                ("num_test", "test images"),
                ("num_sequences", "videos"),
            )
            if name in score.counts
        ]
        measured = f"{score.probe} {score.words}"
        row = (measured, f"{score.value:.1%}", interval, ", ".join(baselines), ", ".join(counts))
        rows.append(row)
    return table(("probe", "score", "95 % interval", "beside it", "judged on"), rows)


def limits(artifact: Artifact, scores: list[Score], source: str) -> str:
    """Tell what the encoder is not known, or not made, to do."""
    size = artifact.image_size
    lines = [
        f"- It was trained on {'clips' if artifact.num_frames else 'images'} of {size} x {size} px"
        f" from {source}; those of other kinds,"
        " sizes or cameras may embed poorly.",
        _BIAS[artifact.head is not None],
        "- It is not made to identify people, nor to decide about them.",
        "- Only the central square of an image is seen.",
    ]
    if artifact.encoder.mixes_images:
        lines.append("- Its batch norm must stay in evaluation mode for single images.")
    if not scores:
        lines.append("- No probe was recorded: measure it on your task before you rely on it.")
    else:
        lines.append("- The probes above are all that was measured; other tasks may differ.")
    return "\n".join(lines)


def licence(license: str) -> str:
    """Tell under which licence the weights are given."""
    if license == "unknown":
        return (
            "Unknown: whoever published these weights has not said. Ask before you use them; the"
            " licences of the training data may bind as well."
        )
    return f"{license}, as stated by whoever published the weights."
