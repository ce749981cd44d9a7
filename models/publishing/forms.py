"""Every form by its name."""

import importlib.util

from models.publishing.form import Form
from models.publishing.graph_forms import ExportForm, OnnxForm
from models.publishing.plain_form import SafetensorsForm
from models.publishing.timm_form import TimmForm
from models.publishing.torchvision_form import TorchvisionForm

FORMS: dict[str, type[Form]] = {
    kind.name: kind for kind in (TimmForm, TorchvisionForm, OnnxForm, ExportForm, SafetensorsForm)
}


def missing_packages(kind: type[Form]) -> list[str]:
    """Return the packages that a form needs and that are not installed."""
    return [name for name in kind.packages if importlib.util.find_spec(name) is None]
