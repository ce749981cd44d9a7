"""Looks at a run's encoder: what they measure, when a run counts as collapsed, and what the run
then does."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from jobs.pretrain import pretrain
from jobs.setup.command_line import parse
from jobs.setup.failures import RunError
from jobs.setup.inputs import make_manifest
from jobs.training import health_watch
from jobs.training.health_watch import Health, Look, judge
from jobs.training.run_config import PretrainConfig, complete_pretrain
from jobs.training.run_dir import RunDir
from jobs.training.run_log import PretrainingError, RunLog
from jobs.training.run_sections import HealthConfig
from jobs.training.training_job import TrainingJob
from models import health
from models.joint_embedding.dino import DINO, DINOConfig
from models.method import Method
from models.multimodal.clip import CLIP
from models.registry import METHODS, build_method
from pipelines.corpus.manifest import Manifest
from pipelines.stream.ledger import Ledger
from pipelines.stream.plan import Plan
from tests.models.masked.photograph import make_batch, tiles
from tests.shared_data import shared_data
from tests.small_methods import ENCODERS, SIZE
from tests.small_methods import make_batch as small_batch

SMALL = [
    *(
        "simclr_small",
        "encoder.width=8",
        "method.hidden_dim=32",
        "method.projection_dim=16",
        "views.size=16",
    ),
    *("global_batch_size=32", "log.every_steps=1", "cluster.max_failures=0", "num_steps=100"),
]


def config(source: str, out: str, *words: str) -> PretrainConfig:
    made = parse(complete_pretrain, [*SMALL, f"source.uri={source}", f"out={out}", *words])
    assert isinstance(made, PretrainConfig)
    return made


@pytest.fixture(scope="module")
def manifest(
    image_folder: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> Manifest:
    return make_manifest(str(image_folder), str(tmp_path_factory.mktemp("manifest")))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process instead of a group of Ray Train's."""
    monkeypatch.setattr(health_watch, "broadcast_from_rank_zero", lambda value: value)


class Silent:
    """Stands in for the driver's monitor."""

    class log:
        @staticmethod
        def remote(line: object) -> ray.ObjectRef[None]:
            return ray.put(None)


def make_job(config: PretrainConfig, manifest: Manifest | None = None) -> TrainingJob:
    ledger = Plan.fresh(manifest, config.seed).ledger if manifest else Ledger(0, ())
    return TrainingJob(
        config=config,
        num_steps=100,
        num_rows=manifest.num_stored if manifest else 0,
        epoch_samples=manifest.num_rows if manifest else 0,
        threads=1,
        photometric_done=True,
        manifest=manifest.uri if manifest else "none",
        ledger=ledger,
        monitor=Silent,
    )


def make(config: PretrainConfig, manifest: Manifest) -> tuple[Health, Method]:
    method = build_method(config.method, config.encoder, config.views, config.seed)
    return Health(make_job(config, manifest), rolled_back=False), method


@pytest.mark.usefixtures("alone")
def test_a_look_measures_the_corpus_and_leaves_training_as_it_was(
    manifest: Manifest, tmp_path: Path
) -> None:
    looker, method = make(config(manifest.uri, str(tmp_path), "health.num_samples=60"), manifest)
    method.encoder[0].eval() if isinstance(method.encoder, torch.nn.Sequential) else None
    before, modes = (
        {k: v.clone() for k, v in method.state_dict().items()},
        [m.training for m in method.modules()],
    )
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    look = looker.look(method, 100, saving=False, autocast=None)
    assert look is not None and look.step == look.figures["health_step"] == 100
    names = {"rankme", "variation", "alpha_req", "alignment", "uniformity", "spread", "step"}
    assert look.figures.keys() == {f"health_{name}" for name in names}
    assert 1 < look.figures["health_rankme"] <= 60 and 0 < look.figures["health_alignment"] < 2
    assert all(torch.equal(before[key], value) for key, value in method.state_dict().items())
    assert modes == [module.training for module in method.modules()]
    assert torch.equal(random, torch.get_rng_state()) and threads == torch.get_num_threads()
    # the same images and views again
    assert looker.look(method, 100, saving=False, autocast=None) == look


@pytest.mark.usefixtures("alone", "ray_session")
def test_a_look_that_fails_or_finds_no_number_costs_the_run_nothing(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looker, method = make(config(manifest.uri, str(tmp_path), "health.num_samples=8"), manifest)

    def fails(job: TrainingJob) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(health_watch, "read_images", fails)
    assert looker.look(method, 100, saving=False, autocast=None) == Look(
        100, {"health_step": 100}, None
    )
    same = torch.zeros(8, 3, 16, 16)  # copies of one image: no direction varies
    monkeypatch.setattr(health_watch, "read_images", lambda job: {"centre": same, "view": same})
    look = looker.look(method, 100, saving=False, autocast=None)
    assert look is not None and "health_alpha_req" not in look.figures
    assert all(math.isfinite(value) for value in look.figures.values())


@pytest.mark.usefixtures("alone")
def test_an_encoder_that_maps_everything_to_one_point_has_collapsed(
    manifest: Manifest, tmp_path: Path
) -> None:
    looker, method = make(config(manifest.uri, str(tmp_path), "health.num_samples=40"), manifest)
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.mul_(1e-3)
    look = looker.look(method, 100, saving=False, autocast=None)
    assert look is not None and look.collapse is not None
    early = looker.look(method, 49, saving=True, autocast=None)
    assert early is None  # nor is it looked at, where the run would not go back


@pytest.mark.slow
@pytest.mark.usefixtures("alone", "shallow")
def test_a_prediction_of_its_own_tokens_is_caught_while_its_loss_falls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = tiles(48, 16)
    read = {"centre": images, "view": images}
    monkeypatch.setattr(health_watch, "read_images", lambda job: read)
    looks: dict[bool, Look] = {}
    losses: dict[bool, float] = {}
    for guard in (True, False):
        words = ["ijepa_small", "encoder.width=8", "views.size=16", "num_steps=40"]
        words += ["source.uri=none", "out=none", f"method.stop_gradient={str(guard).lower()}"]
        made = parse(complete_pretrain, words)
        assert isinstance(made, PretrainConfig)
        method = build_method(made.method, made.encoder, made.views, made.seed)
        optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
        for step in range(40):
            optimizer.zero_grad()
            loss = method(make_batch(images, epoch=step))["loss"]
            loss.backward()
            optimizer.step()
            method.after_step(step + 1, 40)
        look = Health(make_job(made), rolled_back=False).look(
            method, 100, saving=False, autocast=None
        )
        assert look is not None
        assert {"health_patch_rankme", "health_patch_locality"} < look.figures.keys()
        looks[guard], losses[guard] = look, loss.item()
    assert losses[False] < losses[True]
    assert looks[True].collapse is None
    assert "its patch tokens tell" in str(looks[False].collapse)


@pytest.mark.usefixtures("alone")
def test_a_tower_of_captions_that_collapses_alone_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = small_batch("clip")
    images = batch["views"]["global_crops"][0]
    read = {"centre": images, "view": images, "caption": batch["targets"]["caption"]}
    monkeypatch.setattr(health_watch, "read_images", lambda job: read)
    method = build_method(METHODS["clip"].small, ENCODERS[0], CLIP.default_views(SIZE), 0)
    assert isinstance(method, CLIP)
    job = make_job(config("images", "out", "health.min_spread=0.05"))
    looker = Health(job, rolled_back=False)
    look = looker.look(method, 100, saving=False, autocast=None)
    assert look is not None and look.collapse is None
    assert {"health_spread", "health_spread_captions", "health_rankme_captions"} < set(look.figures)
    weight = method.text_tower.text_projection.weight
    for column, says in ((0, "an effective rank of 1.00"), (None, "spread 0.00 of evenly")):
        with torch.no_grad():
            weight.zero_()
            if column is not None:  # two ends of one line
                weight[:, column] = 1
        look = looker.look(method, 100, saving=False, autocast=None)
        assert look is not None and look.whose == "the tower of captions"
        assert says in str(look.collapse)


@pytest.mark.usefixtures("alone")
def test_looks_are_due_every_so_many_steps_at_the_end_and_before_what_is_saved_for_going_back(
    manifest: Manifest, tmp_path: Path
) -> None:
    words = ["health.num_samples=8", "health.every_steps=40"]
    looker, method = make(config(manifest.uri, str(tmp_path), *words), manifest)
    seen = [
        step
        for step in range(1, 101)
        if looker.look(method, step, saving=step == 30, autocast=None)
    ]
    assert seen == [40, 80, 100]
    words.append("health.on_collapse=rollback")
    looker, method = make(config(manifest.uri, str(tmp_path), *words), manifest)
    seen = [
        step
        for step in range(1, 101)
        if looker.look(method, step, saving=step == 30, autocast=None)
    ]
    assert seen == [30, 40, 80, 100]


def test_spread_and_rank_are_judged_by_their_thresholds() -> None:
    settings = HealthConfig(min_spread=0.2, min_rankme=1.5)
    assert judge({"health_spread": 0.21, "health_rankme": 1.6}, settings) is None
    assert judge({"health_rankme": 1.6}, settings) is None  # a method without projections
    assert "spread 0.19 of evenly" in str(
        judge({"health_spread": 0.19, "health_rankme": 9.0}, settings)
    )
    assert "effective rank of 1.40" in str(judge({"health_rankme": 1.4}, settings))
    assert judge({}, settings) is None  # nothing could be read
    of_patches = {"health_rankme": 9.0, "health_patch_variation": 0.3}
    assert judge(of_patches, settings) is None
    assert "0.0021 of the image" in str(
        judge(of_patches | {"health_patch_variation": 0.0021}, settings)
    )


def test_embeddings_at_one_point_are_a_collapse_whatever_their_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(64, generator=generator)
    z = point + 0.01 * torch.randn(256, 64, generator=generator)
    figures = {
        "health_rankme": float(health.rankme(z)),
        "health_variation": float(health.variation(z)),
    }
    assert figures["health_rankme"] > HealthConfig().min_rankme
    assert "all its embeddings are alike: 0.0001" in str(judge(figures, HealthConfig()))
    assert judge({"health_variation": 0.01}, HealthConfig()) is None


SHARP = {"centring": "none"}
FLAT = {"teacher_temperature": 1.0, "first_teacher_temperature": 1.0}


@pytest.mark.long
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("settings", "collapses"),
    [({}, False), (SHARP, True), pytest.param(FLAT, True, marks=pytest.mark.slow)],
    ids=("dino", "none", "t"),
)
def test_dino_without_its_centring_or_sharpening_is_caught_though_its_embeddings_differ(
    settings: dict[str, float | str], collapses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"hidden_dim": 64, "bottleneck_dim": 16, "num_prototypes": 16, "freeze_fraction": 0.0}
    dino = DINOConfig.model_validate(
        {**given, "momentum": 0.99, "center_momentum": 0.8, **settings}
    )
    method = build_method(dino, ENCODERS[1], DINO.default_views(SIZE), 0)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    batch = small_batch("dino")
    for step in range(20):
        optimizer.zero_grad()
        method(batch)["loss"].backward()
        optimizer.step()
        method.after_step(step + 1, 20)
    images = batch["views"]["global_crops_1"][0]
    read = {"centre": images, "view": images}
    monkeypatch.setattr(health_watch, "read_images", lambda job: read)
    job = replace(make_job(config("images", "out")), manifest="images")
    look = Health(job, rolled_back=False).look(method, 100, saving=False, autocast=None)
    assert look is not None
    assert (look.collapse is not None) == collapses, look
    figures = {name: value for name, value in look.figures.items() if name != "health_spread"}
    assert judge(figures, HealthConfig()) is None


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("name", "guard_away", "steps"),
    [
        ("byol", {"predictor": False, "momentum": 0.0}, 20),
        ("vicreg", {"variance_weight": 0.0, "covariance_weight": 0.0}, 20),
        pytest.param("counting", {"contrast": 0.0}, 20, marks=pytest.mark.slow),
    ],
)
def test_what_collapses_without_its_guard_is_caught(
    name: str, guard_away: dict[str, float], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = METHODS[name]
    batch = small_batch(name)
    images = next(iter(batch["views"].values()))[0]
    read = {"centre": images, "view": images}
    monkeypatch.setattr(health_watch, "read_images", lambda job: read)
    collapse = dict[bool, str | None]()
    for guarded in (True, False):
        torch.manual_seed(0)
        settings = kind.small.model_copy(update={} if guarded else guard_away)
        method = build_method(settings, ENCODERS[0], kind.default_views(kind.small_px), 0)
        optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
        for step in range(steps):
            optimizer.zero_grad()
            method(small_batch(name, step % 4))["loss"].backward()
            optimizer.step()
            method.after_step(step + 1, steps)
        job = replace(make_job(config("images", "out")), manifest="images")
        look = Health(job, rolled_back=False).look(method, 100, saving=False, autocast=None)
        assert look is not None
        collapse[guarded] = look.collapse
    assert collapse[True] is None
    assert "its projections spread" in str(collapse[False])


@pytest.mark.usefixtures("ray_session")
def test_weights_after_a_gradient_that_is_no_number_are_not_called_committed(
    tmp_path: Path,
) -> None:
    made = config("images", str(tmp_path / "run"), "log.every_steps=10", "log.tensorboard=false")
    log = RunLog(make_job(made), step=0, attempt=0)
    log.step(1, 0.1, torch.tensor(1.0), {}, final=False)
    log.check()
    log.step(2, 0.1, torch.tensor(float("nan")), {}, final=False)
    with pytest.raises(PretrainingError, match="gradient was not finite in 1 steps"):
        log.check()


@pytest.mark.usefixtures("ray_session")
def test_a_run_goes_back_once_and_the_log_is_closed_before_it_ends(tmp_path: Path) -> None:
    made = config(
        "images", str(tmp_path / "run"), "log.tensorboard=false", "health.on_collapse=rollback"
    )
    job = make_job(made)
    collapsed = Look(60, {"health_step": 60}, "no spread")
    log = RunLog(job, step=0, attempt=0)
    first = Health(job, rolled_back=False)
    assert not first.goes_back(None, log) and not first.goes_back(Look(60, {}, None), log)
    assert first.goes_back(collapsed, log)
    assert RunDir(made.out).rollback() == {
        "step": 60,
        "reason": "the encoder collapsed by step 60: no spread",
    }
    again = Health(job, rolled_back=True)
    with pytest.raises(PretrainingError, match="no spread once more, at half the learning rate"):
        again.goes_back(collapsed, RunLog(job, step=0, attempt=1))


@pytest.mark.slow
def test_a_collapse_sends_two_workers_back_once_at_half_the_rate_and_then_stops_them(
    manifest: Manifest, tmp_path: Path
) -> None:
    out = str(tmp_path / "run")
    words = [
        "num_steps=6",
        "health.on_collapse=rollback",
        "health.every_steps=3",
        "health.num_samples=40",
    ]
    words += [
        "health.min_spread=0.999",
        "health.grace_steps=5",
        "cluster.num_workers=2",
        "optim.warmup_fraction=0",
    ]
    with pytest.raises(
        RunError, match=r"collapsed by step 6: its projections spread .* once more, at half"
    ):
        pretrain(config(manifest.uri, out, *words, "checkpoint.every_s=0.01"))
    run = RunDir(out)
    assert run.rollback() is not None and run.rollback()["step"] >= 5  # type: ignore[index]
    assert 0 < run.committed_step() < 5  # what was saved before any look was judged
    rates = [
        {
            line["step"]: line["lr"]
            for part in parts
            for line in map(json.loads, part.read_text().splitlines())
        }
        for parts in (sorted(Path(out, "metrics").glob(f"{attempt}-*")) for attempt in range(2))
    ]
    assert rates[1][5] == pytest.approx(rates[0][5] / 2)
    # what was seen last is in the log
    assert 6 in rates[1] and run.join_metrics()[-1]["health_step"] == 6
    assert not Path(out, "artifact").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("stop_gradient", [False, True])
@pytest.mark.skipif(shared_data("cifar10_10k.tar") is None, reason="wants 10 000 real images")
def test_simsiam_without_its_stop_gradient_is_caught_within_100_steps_and_with_it_is_not(
    stop_gradient: bool, tmp_path: Path
) -> None:
    images = shared_data("cifar10_10k.tar")
    words = [
        "simsiam_small",
        f"source.uri={images}",
        f"out={tmp_path}/run",
        "num_steps=100",
        "health.every_steps=25",
    ]
    words += [
        f"method.stop_gradient={stop_gradient}",
        "health.on_collapse=stop",
        "cluster.max_failures=0",
    ]
    made = parse(complete_pretrain, words)
    assert isinstance(made, PretrainConfig)
    if stop_gradient:
        assert pretrain(made)["steps"] == 100
    else:
        with pytest.raises(RunError, match="collapsed by step"):
            pretrain(made)
