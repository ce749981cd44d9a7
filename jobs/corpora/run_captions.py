"""Captions as a run sees them: with the tokens that it has learnt."""

from jobs.training.run_config import PretrainConfig
from jobs.training.run_dir import TOKENIZER, RunDir
from models.multimodal.two_towers import TwoTowersConfig
from pipelines.captions.drawn_captions import Captions
from pipelines.corpus.manifest import Manifest
from pipelines.storage import uris


def captions_of_run(config: PretrainConfig, run: RunDir, manifest: Manifest) -> Captions | None:
    """Return the captions of a run's corpus; None where it takes none, or has not begun.

    Args:
        config: Of the run.
        run: Its directory.
        manifest: The corpus.
    """
    place = config.source.captions_of(manifest)
    if place is None or not isinstance(config.method, TwoTowersConfig):
        return None
    if not uris.exists(run.path(TOKENIZER)):
        return None
    tokenizer = uris.read_bytes(run.path(TOKENIZER)).decode()
    return Captions(place, tokenizer, config.method.context_length, config.seed)
