"""Training: recipes as stated, random numbers from (seed, epoch, step), a killed run bit-equal to
an unbroken one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge.errors import EdgeError  # noqa: E402
from edge.models import create  # noqa: E402
from edge.models.checkpoint import read  # noqa: E402
from edge.models.recipe import Augmentation, Phase, Recipe  # noqa: E402
from edge.spec import ImageSpec  # noqa: E402
from edge.training import recipes  # noqa: E402
from edge.training.augmentation import augment, normalise  # noqa: E402
from edge.training.folder import BEST, CURVE, LOG, STATE, check_folder  # noqa: E402
from edge.training.head import PENALTY, fit_head  # noqa: E402
from edge.training.scores import predict  # noqa: E402
from edge.training.start import start  # noqa: E402
from edge.training.trainer import About, Part, Trainer, _optimiser  # noqa: E402

ABOUT = About("mcar-mobilenetv2", ("a", "b", "c"), 32, "toy")
RECIPE = Recipe(
    "toy",
    (Phase(32, 1, (1e-3, 1e-3), batch=4), Phase(32, 1, (1e-3, 1e-5), batch=4, streams="both", regions=1, fixed_norm=True)),
    "adamw",
    weight_decay=0.01,
    ema=0.9,
    augmentation=Augmentation(crop=0.6, turns=True),
)


pytestmark = pytest.mark.usefixtures("one_thread")


def part(count: int, seed: int = 0) -> Part:
    generator = np.random.default_rng(seed)
    labels = generator.choice(np.array([-1, 0, 1], np.int8), (count, 3))
    return Part(generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), labels)


def trainer(folder: Path, recipe: Recipe = RECIPE, seed: int = 0, name: str = "mcar-mobilenetv2", **options: Any) -> Trainer:
    model = start(create(name, num_classes=3, **(options or {"regions": 2})), seed)
    return Trainer(model, part(12), part(5, 1), recipe, lambda scores, _: float(scores.mean() * 100), folder, ABOUT, seed=seed)


def weights(made: Trainer) -> list[torch.Tensor]:
    return [*made.model.state_dict().values(), *made.mean.state_dict().values()]


def equal(one: Trainer, other: Trainer) -> bool:
    return all(torch.equal(value, its) for value, its in zip(weights(one), weights(other), strict=True))


@pytest.mark.parametrize(
    ("name", "options", "stop_after"),
    [
        ("mcar-mobilenetv2", {"regions": 2}, 1),  # in the first epoch
        ("mcar-mobilenetv2", {"regions": 2}, 3),  # at its end
        ("mcar-mobilenetv2", {"regions": 2}, 4),  # in the second
        ("rma-mobilenetv2", {"regions": 2}, 2),
        ("aamn-mobilenetv2", {"width": 8}, 2),
    ],
)
def test_a_stopped_run_goes_on_bit_equal(tmp_path: Path, name: str, options: dict[str, int], stop_after: int) -> None:
    whole, first, second = (trainer(tmp_path / folder, name=name, **options) for folder in ("whole", "parts", "parts"))
    outcome = whole.run()
    first.run(stop=lambda: first.state.updates == stop_after)
    assert second.resume()
    assert second.state.updates == stop_after
    again = second.run()

    assert equal(whole, second)
    untimed = [[{**row, "seconds": 0} for row in rows] for rows in (outcome.rows, again.rows)]
    assert untimed[0] == untimed[1]
    assert [key for key in outcome.rows[0] if key.startswith("map")] == [f"map_{stream}" for stream in whole.model.streams]
    best = [read(tmp_path / folder / BEST)["state_dict"] for folder in ("whole", "parts")]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])
    if name.startswith("aamn"):
        assert whole.model.memory.seen.tolist() == [1, 1, 1]
        assert whole.mean.memory.prototypes.any(1).all()  # what is shipped remembers too
    with pytest.raises(EdgeError, match="same arguments"):
        trainer(tmp_path / "parts", name=name, **{key: value + 1 for key, value in options.items()}).resume()


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_run_that_begins_with_the_head_goes_on_bit_equal(tmp_path: Path, stop_after: int) -> None:
    recipe = replace(RECIPE, head=True)
    whole, first, second = (trainer(tmp_path / folder, recipe) for folder in ("whole", "parts", "parts"))
    rows = whole.run().rows
    first.run(stop=lambda: first.state.updates == stop_after)
    assert second.resume()
    again = second.run().rows
    assert equal(whole, second)
    assert [(row["epoch"], row["streams"]) for row in rows] == [(0, "head"), (1, "global"), (2, "both")]
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in again]


def test_the_head_is_a_penalised_logistic_regression(tmp_path: Path) -> None:
    """Against scikit-learn, on features that are computed here."""
    linear = pytest.importorskip("sklearn.linear_model")
    made, images = trainer(tmp_path), part(40)
    features = []
    for view in (images.images, images.images[:, :, ::-1].copy()):
        with torch.no_grad():
            features.append(made.model.eval().features(normalise(torch.from_numpy(view).permute(0, 3, 1, 2))).mean((2, 3)))
    inputs = torch.cat(features).double().numpy()
    fitted = fit_head(made.model, images.images, images.labels, 32, turns=False, autocast=False, device=torch.device("cpu"))
    assert fitted
    with torch.no_grad():
        found = made.model.convclass(torch.from_numpy(inputs).float()[:, :, None, None])[:, :, 0, 0].numpy()
    standard = (inputs - inputs.mean(0)) / (inputs.std(0, ddof=1) + 1e-6)
    for column in range(3):
        targets = np.tile(images.labels[:, column] >= 0, 2)
        # Ours is a mean over classes too; scikit-learn's is a sum over images.
        expected = linear.LogisticRegression(C=1 / (PENALTY * 3 * len(inputs)), max_iter=2000, tol=1e-8).fit(standard, targets)
        np.testing.assert_allclose(found[:, column], expected.decision_function(standard), atol=0.02)


def test_a_head_that_needs_more_than_features_is_left_alone(tmp_path: Path) -> None:
    made = trainer(tmp_path, replace(RECIPE, head=True), name="rma-mobilenetv2", regions=2)
    assert [row["streams"] for row in made.run().rows] == ["global", "global"]


def test_fine_tuning_ends_with_both_streams_and_a_slower_backbone() -> None:
    for epochs in (1, 2, 20):
        recipe = recipes.choose("auto", 256, epochs, pretrained=True, overhead=True)
        assert (recipe.name, recipe.epochs, recipe.head) == ("finetune", epochs, True)
        assert (recipe.phases[-1].streams, recipe.phases[-1].size) == ("both", 256)
        assert recipe.augmentation.turns
    assert recipes.choose("auto", 256).name == "scratch"
    assert [phase.epochs for phase in recipes.choose("auto", 256, pretrained=True).phases] == [14, 8]
    optimiser = _optimiser(create("mcar-mobilenetv2", num_classes=3, regions=2), recipe)
    assert {group["factor"] for group in optimiser.param_groups} == {1.0, recipe.backbone_lr}


def test_training_changes_weights_and_seeds_differ(tmp_path: Path) -> None:
    before = trainer(tmp_path / "a")
    untouched = [value.clone() for value in weights(before)]
    before.run()
    assert not torch.equal(untouched[0], weights(before)[0])
    assert not torch.equal(weights(trainer(tmp_path / "b", seed=1))[0], untouched[0])


def test_another_recipe_may_not_resume_a_run(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    first.save()
    with pytest.raises(EdgeError, match="same arguments"):
        trainer(tmp_path, replace(RECIPE, weight_decay=0.02)).resume()
    with pytest.raises(EdgeError, match="Add `resume`"):
        check_folder(tmp_path, resume=False)
    check_folder(tmp_path, resume=True)
    assert not trainer(tmp_path / "empty").resume()


@pytest.mark.parametrize("what", ["labels", "digest", "count"])
def test_other_data_may_not_resume_a_run(tmp_path: Path, what: str) -> None:
    first = trainer(tmp_path)
    first.save()
    data = first.train_part
    changed = {
        "labels": replace(data, labels=data.labels[:, [1, 0, 2]]),
        "digest": replace(data, digest="of other images"),
        "count": part(13),
    }[what]
    other = Trainer(first.model, changed, first.validation, RECIPE, first.metric, tmp_path, ABOUT)
    with pytest.raises(EdgeError, match="other arguments, images or labels"):
        other.resume()
    same = Trainer(first.model, part(12), first.validation, RECIPE, first.metric, tmp_path, ABOUT)
    assert same.resume()


@pytest.mark.parametrize("damage", ["cut", "empty", "another", "a list"])
def test_a_damaged_state_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    made, state = trainer(tmp_path), tmp_path / STATE
    made.save()
    if damage in ("cut", "empty"):
        state.write_bytes(state.read_bytes()[: 5000 if damage == "cut" else 0])
    else:
        torch.save({"weights": torch.zeros(3)} if damage == "another" else [1], state)
    for refuse in (made.resume, lambda: check_folder(tmp_path, resume=True)):
        with pytest.raises(EdgeError, match=r"state.pt is (damaged, or is )?not the state of a training run.*another `output`"):
            refuse()


def test_the_first_lasting_file_of_a_run_is_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By it the folder is known as ours: killed while the first best weights are written, the run
    can be resumed."""

    def killed(_: Trainer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "write_best", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path / "parts").run()
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [STATE]
    whole, again = trainer(tmp_path / "whole"), trainer(tmp_path / "parts")
    outcome = whole.run()
    assert again.resume()
    same = again.run()
    assert equal(whole, again)
    assert [row["epoch"] for row in same.rows] == [row["epoch"] for row in outcome.rows]
    assert (same.best_epoch, same.best_map) == (outcome.best_epoch, outcome.best_map)
    assert (tmp_path / "parts" / BEST).is_file()


def test_what_a_kill_left_out_is_written_when_the_run_goes_on(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    for name in (LOG, CURVE):
        (tmp_path / name).unlink()
    (tmp_path / ".best.pth.partial-0.lock").touch()
    check_folder(tmp_path, resume=True)
    assert trainer(tmp_path).resume()
    assert {path.name for path in tmp_path.iterdir()} == {STATE, BEST, LOG, CURVE}


def test_difficult_counts_as_positive_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = torch.nn.functional.binary_cross_entropy_with_logits

    def spy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(targets)
        return real(logits, targets)

    monkeypatch.setattr(torch.nn.functional, "binary_cross_entropy_with_logits", spy)
    made = trainer(tmp_path)
    made._update(RECIPE.phases[0], 0, torch.arange(4), torch.Generator().manual_seed(0))
    assert torch.equal(seen[0], torch.from_numpy((made.train_part.labels[:4] != -1).astype(np.float32)))


def test_fixed_norm_keeps_the_statistics(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    statistics = [module.running_mean.clone() for module in made.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    made._update(RECIPE.phases[1], 0, torch.arange(4), torch.Generator().manual_seed(0))
    now = [module.running_mean for module in made.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(torch.equal(one, other) for one, other in zip(statistics, now, strict=True))
    made._update(RECIPE.phases[0], 0, torch.arange(4), torch.Generator().manual_seed(0))
    assert not torch.equal(statistics[0], now[0])


def test_stream_scores_are_the_models_scores() -> None:
    model = start(create("mcar-mobilenetv2", num_classes=5, regions=3), 0)
    images = normalise(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        expected = model(images)
        found = model.stream_scores(images)
    assert tuple(found) == model.streams
    for name, values in found.items():
        torch.testing.assert_close(values, expected["scores" if name == "fused" else f"{name}_scores"])


def test_scores_of_a_part_fuse_as_the_maximum() -> None:
    model = start(create("mcar-mobilenetv2", num_classes=3, regions=2), 0)
    scores = predict(model, part(3).images, 32, all_streams=True, autocast=False, device=torch.device("cpu"), batch=2)
    assert scores["fused"].shape == (3, 3)
    assert np.array_equal(scores["fused"], np.maximum(scores["global"], scores["local"]))
    assert list(predict(model, part(3).images, 32, all_streams=False, autocast=False, device=torch.device("cpu"))) == ["global"]


def test_normalising_follows_the_image_spec() -> None:
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    spec = ImageSpec()
    expected = [(value / 255 - mean) / std for value, mean, std in zip((0, 128, 255), spec.mean, spec.std, strict=True)]
    assert normalise(pixels).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_augmentation_follows_its_generator() -> None:
    pixels = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    how = Augmentation(crop=0.5, turns=True)
    first, again, other = (augment(pixels, 32, how, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == (3, 3, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    plain = augment(pixels, 48, Augmentation(jitter=0), torch.Generator().manual_seed(1))
    assert all(torch.equal(one, image) or torch.equal(one, image.flip(2)) for one, image in zip(plain, pixels, strict=True))


def test_crops_turns_and_flips_are_those_of_the_image() -> None:
    """On a linear ramp every crop is again linear, so its pixels say where it comes from."""
    ramp = torch.stack(torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij"))
    pixels = torch.cat([ramp, torch.zeros(1, 64, 64)]).to(torch.uint8).mul(3).expand(32, 3, 64, 64)
    seen = augment(pixels, 64, Augmentation(crop=0.5, turns=True, jitter=0), torch.Generator().manual_seed(0)).float() / 3
    down, across = seen[:, :, 1:] - seen[:, :, :-1], seen[:, :, :, 1:] - seen[:, :, :, :-1]
    slopes = torch.stack([down.mean((2, 3)), across.mean((2, 3))], 1)[:, :, :2]  # (32, direction in the result, direction in the image)
    turned = slopes[:, 0, 1].abs() > 0.3
    assert 4 < turned.sum() < 28
    for slope, quarter in zip(slopes, turned, strict=True):
        along = torch.stack([slope[0, 1], slope[1, 0]]) if quarter else slope.diagonal()
        other = slope.diagonal() if quarter else torch.stack([slope[0, 1], slope[1, 0]])
        assert other.abs().max() < 0.02
        assert 0.45 < along.prod().abs() < 1.02  # the share of the area
    assert len({tuple(slope.sign().flatten().tolist()) for slope in slopes.where(slopes.abs() > 0.3, 0)}) == 8


def test_recolouring_is_torchvisions() -> None:
    from torchvision.transforms.v2 import functional as transforms

    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    done = augment(pixels, 32, Augmentation(jitter=0.3), torch.Generator().manual_seed(1))
    draw = torch.rand(4, 10, generator=torch.Generator().manual_seed(1))
    for image, found, row in zip(pixels, done, draw, strict=True):
        factors = (1 + 0.3 * (2 * row[6:9] - 1)).tolist()
        expected = image.flip(2) if row[4] < 0.5 else image
        for adjust, factor in zip(
            (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation), factors, strict=True
        ):
            expected = adjust(expected, factor)
        assert (found.int() - expected.int()).abs().max() <= 3  # torchvision rounds after each step


def test_the_official_recipe_is_the_published_one() -> None:
    recipe = recipes.official(448)
    assert [(phase.epochs, *phase.lr) for phase in recipe.phases] == [(30, 1e-2, 1e-2), (20, 1e-3, 1e-3), (10, 1e-4, 1e-4)]
    assert {(phase.size, phase.batch, phase.streams, phase.regions) for phase in recipe.phases} == {(448, 16, "both", None)}
    assert (recipe.optimiser, recipe.weight_decay, recipe.backbone_lr, recipe.ema) == ("sgd", 1e-4, 0.1, 0)
    assert recipe.augmentation == Augmentation(crop=1, turns=False, jitter=0.3)
    optimiser = _optimiser(create("mcar-mobilenetv2", num_classes=3, regions=2), recipe)
    assert {group["factor"]: group["momentum"] for group in optimiser.param_groups} == {1.0: 0.9, 0.1: 0.9}


@pytest.mark.parametrize("epochs", range(1, 70))
def test_from_scratch_has_the_epochs_asked_for_and_ends_with_both_streams(epochs: int) -> None:
    recipe = recipes.scratch(256, epochs)
    assert recipe.epochs == epochs
    assert (recipe.phases[-1].streams, recipe.phases[-1].size) == ("both", 256)
    assert all(one.size <= other.size for one, other in zip(recipe.phases, recipe.phases[1:], strict=False))


@pytest.mark.parametrize("name", ["mcar-mobilenetv2", "rma-mobilenetv2"])
def test_weights_of_other_classes_or_another_architecture_give_their_backbone(tmp_path: Path, name: str) -> None:
    source = start(create("mcar-mobilenetv2", num_classes=7), 5)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "other.pth")
    model = start(create(name, num_classes=3, regions=2), 0, tmp_path / "other.pth")
    assert torch.equal(model.features[0][0][0].weight, source.features[0][0][0].weight)
    assert model.convclass.weight.shape[0] == 3
    with pytest.raises(EdgeError, match="features"):
        start(create("aamn-resnet50", num_classes=3, width=8), 0, tmp_path / "other.pth")
