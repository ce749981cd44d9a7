"""The encoder as a graph that needs none of its code: ONNX, and a program of `torch.export`."""

import json
import os
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from models.artifact import Artifact
from models.publishing.form import Embed, Form, preparation

_TRACED = 2  # images: a batch of one would be taken for a constant
_LARGEST = 3 * 2**29  # bytes of weights inside an ONNX file, whose format ends at 2 GiB
_ONNX = "model.onnx"
_PROGRAM = "model.pt2"
_STACK_TRACE = "pkg.torch.onnx.stack_trace"


def program_of(artifact: Artifact) -> ExportedProgram:
    """Trace the encoder for any number of images, without the paths of the code that it came
    from."""
    size = artifact.image_size
    example = torch.zeros(_TRACED, 3, size, size)
    batch = {"images": {0: Dim("batch", min=1)}}
    with torch.no_grad():
        program = torch.export.export(artifact.encoder, (example,), dynamic_shapes=batch)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


class OnnxForm(Form):
    """A graph for ONNX runtimes; its metadata say how to prepare images."""

    name = "onnx"
    packages = ("onnx", "onnxruntime", "onnxscript")

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        weights = artifact.encoder.state_dict().values()
        self._beside = sum(each.nbytes for each in weights) > _LARGEST
        self.files = (f"{_ONNX}.data", _ONNX) if self._beside else (_ONNX,)

    def write(self, folder: str) -> None:
        """Write the graph, its weights beside it where they are too large for one file."""
        import onnx

        place = os.path.join(folder, _ONNX)
        graph: Any = torch.onnx.export(
            program_of(self.artifact),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["embedding"],
        )
        properties = {
            "preprocess": json.dumps(preparation(self.artifact)),
            "artifact_digest": self.artifact.digest,
        }
        graph.model.metadata_props.update(properties)
        for value in (*graph.model.graph.inputs, *graph.model.graph.outputs):
            value.shape[0] = "batch"
        for node in graph.model.graph.all_nodes():
            node.metadata_props.pop(_STACK_TRACE, None)  # paths of this machine
        graph.save(place, external_data=self._beside)
        onnx.checker.check_model(place)

    def load(self, folder: str) -> Embed:
        """Open a session of ONNX Runtime on the CPU."""
        import onnxruntime

        session = onnxruntime.InferenceSession(
            os.path.join(folder, _ONNX), providers=["CPUExecutionProvider"]
        )

        def embed(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

        return embed

    def usage(self) -> str:
        """Return the lines that open a session and embed."""
        return (
            "import onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("{_ONNX}")\n'
            '[embedding] = session.run(None, {"images": images.numpy()})'
        )


class ExportForm(Form):
    """A program of `torch.export`; a file inside it says how to prepare images."""

    name = "torch_export"
    packages = ("torch",)
    files = (_PROGRAM,)

    def write(self, folder: str) -> None:
        """Write the program."""
        beside = {"preprocess.json": json.dumps(preparation(self.artifact))}
        place = os.path.join(folder, _PROGRAM)
        torch.export.save(program_of(self.artifact), place, extra_files=beside)

    def load(self, folder: str) -> Embed:
        """Load the program."""
        module = torch.export.load(os.path.join(folder, _PROGRAM)).module()
        return torch.no_grad()(module)

    def usage(self) -> str:
        """Return the lines that load the program and embed."""
        return (
            "import torch\n\n"
            f'model = torch.export.load("{_PROGRAM}").module()\n'
            "embedding = model(images)"
        )
