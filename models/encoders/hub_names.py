"""Names under which encoders are known elsewhere."""

TORCHVISION = "torchvision:"
_HUB_PREFIXES = ("hf-hub:timm/", "hf_hub:timm/", "timm/")


def architecture(name: str) -> str:
    """Reduce a name under which timm's weights are published to that of their network.

    Args:
        name: Such as "timm/vit_tiny_patch16_224.augreg_in21k", "hf-hub:timm/resnet50.a1_in1k" or
            "resnet50.a1_in1k"; any other name is returned as it is.
    """
    if name.startswith(TORCHVISION):
        return name
    for prefix in _HUB_PREFIXES:
        name = name.removeprefix(prefix)
    return name.partition(".")[0]


def weights_left_out(name: str) -> str | None:
    """Say in a line that a name asks for weights, which are not loaded; None where it does not."""
    network = architecture(name)
    if network == name:
        return None
    return (
        f"encoder.name={name}: no weights are loaded, {network} starts from random ones;"
        " encoder.weights=FILE gives it some"
    )
