"""All methods by name."""

from collections import ChainMap

import torch

from augment.recipe import AnyViews
from models.audio.cpc_audio import CPCAudio
from models.audio.wav2vec2 import Wav2Vec2
from models.clustering.deepcluster import DeepCluster
from models.clustering.swav import SwAV
from models.contrastive.amdim import AMDIM
from models.contrastive.cpc import CPC
from models.contrastive.cpc_v2 import CPCv2
from models.contrastive.exemplar import Exemplar
from models.contrastive.instance_discrimination import InstanceDiscrimination
from models.contrastive.moco import MoCo
from models.contrastive.moco_v3 import MoCoV3
from models.contrastive.simclr import SimCLR
from models.contrastive.yadim import YADIM
from models.encoders.factory import EncoderConfig
from models.generative.autoencoder import Autoencoder
from models.generative.autoregressive import Autoregressive
from models.generative.bigan import BiGAN
from models.generative.colorization import Colorization
from models.generative.context_encoder import ContextEncoder
from models.generative.context_encoder_adversarial import ContextEncoderAdversarial
from models.generative.denoising_autoencoder import DenoisingAutoencoder
from models.generative.nat import NAT
from models.generative.split_brain import SplitBrain
from models.generative.super_resolution import SuperResolution
from models.generative.synthetic import Synthetic
from models.joint_embedding.barlow_twins import BarlowTwins
from models.joint_embedding.byol import BYOL
from models.joint_embedding.dino import DINO
from models.joint_embedding.dinov2 import DINOv2
from models.joint_embedding.ibot import IBOT
from models.joint_embedding.lejepa import LeJEPA
from models.joint_embedding.simsiam import SimSiam
from models.joint_embedding.vicreg import VICReg
from models.masked.capi import CAPI
from models.masked.data2vec import Data2Vec
from models.masked.ijepa import IJEPA
from models.masked.mae import MAE
from models.masked.simmim import SimMIM
from models.method import Method, MethodConfig
from models.motion.common_fate import CommonFate
from models.motion.egomotion import Egomotion
from models.motion.frame_prediction import FramePrediction
from models.motion.frame_prediction_adversarial import FramePredictionAdversarial
from models.multimodal.audio_visual import AudioVisual
from models.multimodal.clip import CLIP
from models.multimodal.cmc import CMC
from models.multimodal.disagreement import Disagreement
from models.multimodal.siglip import SigLIP
from models.multimodal.sound import Sound
from models.spatial.counting import Counting
from models.spatial.jigsaw import Jigsaw
from models.spatial.relative_position import RelativePosition
from models.spatial.rotation import Rotation
from models.supervised.detect import Detect
from models.supervised.finetune import Finetune
from models.supervised.segment import Segment
from models.supervised.several_heads import SeveralHeads
from models.temporal.arrow_of_time import ArrowOfTime
from models.temporal.cpc_temporal import CPCTemporal
from models.temporal.crw import ContrastiveRandomWalk
from models.temporal.frame_order import FrameOrder
from models.temporal.levjepa import LeVJEPA
from models.temporal.tracking import Tracking
from models.temporal.video_colorization import VideoColorization
from models.temporal.videomae import VideoMAE
from models.temporal.vjepa import VJEPA
from models.texts.mlm import MLM
from models.texts.sentence_order import SentenceOrder
from models.texts.simcse import SimCSE
from models.texts.skipgram import SkipGram

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "moco_v3": MoCoV3,
    "instance_discrimination": InstanceDiscrimination,
    "exemplar": Exemplar,
    "cpc": CPC,
    "cpc_v2": CPCv2,
    "amdim": AMDIM,
    "yadim": YADIM,
    "byol": BYOL,
    "simsiam": SimSiam,
    "barlow_twins": BarlowTwins,
    "vicreg": VICReg,
    "lejepa": LeJEPA,
    "deepcluster": DeepCluster,
    "swav": SwAV,
    "dino": DINO,
    "ibot": IBOT,
    "dinov2": DINOv2,
    "mae": MAE,
    "autoencoder": Autoencoder,
    "denoising_autoencoder": DenoisingAutoencoder,
    "context_encoder": ContextEncoder,
    "context_encoder_adversarial": ContextEncoderAdversarial,
    "simmim": SimMIM,
    "nat": NAT,
    "bigan": BiGAN,
    "super_resolution": SuperResolution,
    "autoregressive": Autoregressive,
    "synthetic": Synthetic,
    "ijepa": IJEPA,
    "data2vec": Data2Vec,
    "colorization": Colorization,
    "capi": CAPI,
    "split_brain": SplitBrain,
    "rotation": Rotation,
    "relative_position": RelativePosition,
    "jigsaw": Jigsaw,
    "counting": Counting,
    "videomae": VideoMAE,
    "vjepa": VJEPA,
    "levjepa": LeVJEPA,
    "cpc_temporal": CPCTemporal,
    "arrow_of_time": ArrowOfTime,
    "frame_order": FrameOrder,
    "tracking": Tracking,
    "video_colorization": VideoColorization,
    "crw": ContrastiveRandomWalk,
    "cmc": CMC,
    "common_fate": CommonFate,
    "egomotion": Egomotion,
    "frame_prediction": FramePrediction,
    "frame_prediction_adversarial": FramePredictionAdversarial,
    "clip": CLIP,
    "siglip": SigLIP,
    "sound": Sound,
    "audio_visual": AudioVisual,
    "disagreement": Disagreement,
    "cpc_audio": CPCAudio,
    "wav2vec2": Wav2Vec2,
    "skipgram": SkipGram,
    "mlm": MLM,
    "sentence_order": SentenceOrder,
    "simcse": SimCSE,
}

SUPERVISED: dict[str, type[Method]] = {
    "detect": Detect,
    "finetune": Finetune,
    "segment": Segment,
    "several_heads": SeveralHeads,
}
"""Objectives with labels: what `jobs.adapt` trains with."""

_EVERY = ChainMap(METHODS, SUPERVISED)


def method_class(name: str) -> type[Method]:
    """Return the class of an objective, with labels or without.

    Raises:
        KeyError: there is none of this name.
    """
    return _EVERY[name]


DEFAULT = "simclr"
"""What is pretrained with where no method is named."""


def build_method(
    method_config: MethodConfig, encoder_config: EncoderConfig, views: AnyViews, seed: int
) -> Method:
    """Build a method whose weights depend on `seed` alone.

    Args:
        method_config: Settings of one of `METHODS` or `SUPERVISED`; its `name` selects the class.
        encoder_config: The encoder to train.
        views: Which views the method is fed.
        seed: Of the initial weights and of the method's own draws; the caller's random state is
            left as it was.

    Returns:
        The method in training mode, on the CPU.

    Raises:
        ValueError: unknown method, or encoder and views that the method cannot use.
    """
    if method_config.name not in _EVERY:
        raise ValueError(
            f"method.name={method_config.name} is not known; choose from {', '.join(METHODS)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        made = method_class(method_config.name)
        return made(method_config, encoder_config, views, seed)
