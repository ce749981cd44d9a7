"""Loads the project's packages as `afield.models` and so on, whoever owns the names `models` and
`jobs`.

A module that is loaded here gets builtins of its own, in which `__import__` reads `models` as
`afield.models`. Python looks up `__import__` there for each import statement of the module, also
for those inside functions; the sources and their compiled files stay as they are.
"""

import builtins
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

OWN = "afield"
PACKAGES = ("augment", "models", "pipelines", "jobs")
_HERE = Path(__file__).parent
# Inside the package in a wheel, beside it in a clone.
PLACE = _HERE if (_HERE / "models").is_dir() else _HERE.parent


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """Import as the statement does, the project's packages by their names below `afield`."""
    root = name.partition(".")[0]
    if level or root not in PACKAGES:
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    module = builtins.__import__(f"{OWN}.{name}", globals, locals, fromlist or ("",), 0)
    return module if fromlist else sys.modules[f"{OWN}.{root}"]


BUILTINS = {**vars(builtins), "__import__": _import}


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = BUILTINS
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        own, _, name = fullname.partition(".")
        if own != OWN or name.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path if "." in name else [str(PLACE)], target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def install() -> None:
    """Have Python ask this finder first; once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
