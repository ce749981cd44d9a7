"""Nothing looks behind an encoder: methods and jobs take what `Encoder` promises, and no more."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from models.encoders.encoder import Encoder

ROOT = Path(__file__).resolve().parents[2]
# Inside these an encoder is made, saved, loaded, or written for another library.
MODELS = ROOT / "models"
MAKERS = {MODELS / name for name in ("encoders", "starting", "publishing", "artifact.py")}
FILES = sorted(
    path
    for package in ("models", "pipelines", "jobs")
    for path in (ROOT / package).rglob("*.py")
    if not MAKERS & {path, *path.parents}
)
# Ways of torch into a module's inside.
INSIDE = {
    "children",
    "get_buffer",
    "get_parameter",
    "get_submodule",
    "modules",
    "named_children",
    "named_modules",
}
# What the encoders made for one kind of method, AMDIM's, CPC's, split-brain's and
# autoregression's, promise beyond the others.
ONLY_THERE = {"local_dim", "scales", "cut", "encode", "halves", "sequence"}
PROMISED = (
    {name for name in dir(Encoder) if not name.startswith("_")}
    | set(Encoder.__annotations__)
    | ONLY_THERE
) - INSIDE
BEHIND = {"network", "vit", "patch_encoder", "stem", "stages"} | INSIDE


def is_encoder(node: ast.expr) -> bool:
    """Tell whether an expression is called an encoder: `encoder`, `self.student_encoder`."""
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name == "encoder" or name.endswith("_encoder")


def looks_behind(tree: ast.AST, promised: set[str] | None) -> Iterator[str]:
    """Yield each place in a module that takes something of an encoder that it does not promise."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_encoder(node.value):
            unknown = node.attr not in promised if promised is not None else node.attr in BEHIND
            if unknown:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        asks = isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "isinstance",
            "getattr",
            "hasattr",
            "type",
        )
        if asks and isinstance(node, ast.Call) and node.args and is_encoder(node.args[0]):
            yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_takes_of_an_encoder_what_it_does_not_promise(path: Path) -> None:
    # In jobs and pipelines an artifact may be called an encoder, and it has more to give.
    promised = PROMISED if (ROOT / "models") in path.parents else None
    assert list(looks_behind(ast.parse(path.read_text()), promised)) == []


def test_looking_behind_an_encoder_is_found() -> None:
    code = """
        if isinstance(self.encoder, ViT): pass
        a = getattr(encoder, "feature_map", None)
        b = self.student_encoder.vit.blocks
        c = method.encoder.get_submodule("network")
        d = self.encoder.maps(images)
        e = encoder.embed_dim
    """
    tree = ast.parse("def f():" + code)
    assert len(list(looks_behind(tree, PROMISED))) == 4
    assert len(list(looks_behind(tree, None))) == 4


def test_what_is_promised_is_little() -> None:
    own = PROMISED - set(dir(nn.Module)) - ONLY_THERE
    assert own == {
        "changed_by",
        "check_pooling",
        "contextual",
        "core",
        "depth",
        "embed_dim",
        "frames",
        "freeze_patch_embedding",
        "grid",
        "keep_tokens",
        "latents",
        "layers",
        "map_dim",
        "maps",
        "media",
        "mixes_images",
        "name",
        "num_patches",
        "patch_size",
        "places",
        "pool",
        "pooling",
        "poolings",
        "pools_its_layers",
        "require",
        "supports",
        "token_key",
        "tokens",
        "tubelet",
        "use_pooling",
    }
