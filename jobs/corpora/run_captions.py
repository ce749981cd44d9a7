"""Captions as a run sees them: with the tokens that it has learnt."""

from jobs.training.run_config import PretrainConfig
from jobs.training.run_dir import RunDir
from models.multimodal.two_towers import TwoTowersConfig
from pipelines.captions.drawn_captions import Captions
from pipelines.corpus.manifest import Manifest


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
    tokenizer = run.tokenizer()
    if tokenizer is None:
        return None
    return Captions(place, tokenizer, config.method.context_length, config.seed)
