"""Encoder and head as a graph that needs none of their code: ONNX, and a program of
`torch.export`."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from models.artifact import Artifact
from models.encoders.encoder import Encoder
from models.publishing.form import Form, Outputs, Tell, preparation, sample_shape, told_of
from models.supervised.head import Head

_TRACED = 2  # images: a batch of one would be taken for a constant
_LARGEST = 3 * 2**29  # bytes of weights inside an ONNX file, whose format ends at 2 GiB
_ONNX = "model.onnx"
_PROGRAM = "model.pt2"
_FOLDING = "onnxscript.optimizer._constant_folding"
_STACK_TRACE = "pkg.torch.onnx.stack_trace"


class _Told(nn.Module):
    """An encoder and a head that tells classes: embedding (B, D) and probabilities (B, C)."""

    def __init__(self, encoder: Encoder, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        # the encoder runs once: what the head takes is the embedding, or the embedding's places
        self.one_pass = encoder.pools_its_layers and encoder.pooling != "class"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.head.features(self.encoder, images)
        if features.ndim == 2:
            embedding = features
        else:
            embedding = self.encoder.pool(features) if self.one_pass else self.encoder(images)
        scores = self.head(features)
        several = self.head.config.task == "classes"
        return embedding, scores.sigmoid() if several else scores.softmax(1)


def program_of(form: Form) -> ExportedProgram:
    """Trace what a form gives for any number of images or clips, without the paths of the code that
    it came from."""
    encoder = form.artifact.encoder
    traced = encoder if form.head is None else _Told(encoder, form.head).eval()
    example = torch.zeros(_TRACED, *sample_shape(form.artifact))
    batch = ({0: Dim("batch", min=1)},)
    with torch.no_grad():
        program = torch.export.export(traced, (example,), dynamic_shapes=batch)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Keep a library from telling users what it does not make faster."""
    named = logging.getLogger(logger)
    before = named.disabled
    named.disabled = True
    try:
        yield
    finally:
        named.disabled = before


class OnnxForm(Form):
    """A graph for ONNX runtimes; its metadata say how to prepare images."""

    name = "onnx"
    packages = ("onnx", "onnxruntime", "onnxscript")
    scores = "probabilities"

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        weights = artifact.state_dict().values()
        self._beside = sum(each.nbytes for each in weights) > _LARGEST
        self.files = (f"{_ONNX}.data", _ONNX) if self._beside else (_ONNX,)

    def write(self, folder: str) -> None:
        """Write the graph, its weights beside it where they are too large for one file."""
        import onnx

        place = os.path.join(folder, _ONNX)
        program = program_of(self)
        with _quiet(_FOLDING):
            graph: Any = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=list(self.outputs),
            )
        properties = {
            "preprocess": json.dumps(preparation(self.artifact)),
            "artifact_digest": self.artifact.digest,
        }
        if self.head is not None:
            properties["head"] = json.dumps(told_of(self.artifact))
        graph.model.metadata_props.update(properties)
        for value in (*graph.model.graph.inputs, *graph.model.graph.outputs):
            value.shape[0] = "batch"
        for node in graph.model.graph.all_nodes():
            node.metadata_props.pop(_STACK_TRACE, None)  # paths of this machine
        graph.save(place, external_data=self._beside)
        onnx.checker.check_model(place)

    def load(self, folder: str) -> Tell:
        """Open a session of ONNX Runtime on the CPU."""
        import onnxruntime

        session = onnxruntime.InferenceSession(
            os.path.join(folder, _ONNX), providers=["CPUExecutionProvider"]
        )

        def tell(images: Tensor) -> Outputs:
            names = [each.name for each in session.get_outputs()]
            told = session.run(None, {"images": images.numpy()})
            return {name: torch.from_numpy(each) for name, each in zip(names, told, strict=True)}

        return tell

    def usage(self) -> str:
        """Return the lines that open a session, embed and tell."""
        return (
            "import onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("{_ONNX}")\n'
            f'[{", ".join(self.outputs)}] = session.run(None, {{"images": images.numpy()}})'
        )


class ExportForm(Form):
    """A program of `torch.export`; a file inside it says how to prepare images."""

    name = "torch_export"
    packages = ("torch",)
    scores = "probabilities"
    files = (_PROGRAM,)

    def write(self, folder: str) -> None:
        """Write the program."""
        beside = {"preprocess.json": json.dumps(preparation(self.artifact))}
        if self.head is not None:
            beside["head.json"] = json.dumps(told_of(self.artifact))
        place = os.path.join(folder, _PROGRAM)
        torch.export.save(program_of(self), place, extra_files=beside)

    def load(self, folder: str) -> Tell:
        """Load the program."""
        module = torch.export.load(os.path.join(folder, _PROGRAM)).module()

        def tell(images: Tensor) -> Outputs:
            told = module(images)
            several = told if isinstance(told, tuple) else (told,)
            return dict(zip(self.outputs, several, strict=True))

        return torch.no_grad()(tell)

    def usage(self) -> str:
        """Return the lines that load the program, embed and tell."""
        return (
            "import torch\n\n"
            f'model = torch.export.load("{_PROGRAM}").module()\n'
            f"{', '.join(self.outputs)} = model(images)"
        )
