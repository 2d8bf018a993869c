"""Training any network, so that a run may be killed at any moment and goes on as if nothing had
happened.

Everything random is drawn from (seed, epoch, step), the learning rate follows from the step, and
the rest of the state is saved whole every few minutes: on a CPU with a fixed number of threads a
resumed run is bit-equal to an unbroken one.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.atomic import write_atomically
from edge.errors import EdgeError
from edge.events import Progress
from edge.manifest import digest_bytes, digest_json
from edge.models.checkpoint import save_checkpoint
from edge.models.network import Network
from edge.models.recipe import Phase, Recipe
from edge.models.rounded import Rounded
from edge.training.augmentation import augment, normalise, resize
from edge.training.curve import draw_curve
from edge.training.folder import BEST, CURVE, STATE, Row, State, read_state, write_log, write_state
from edge.training.head import fit_head
from edge.training.qat import RANGE_IMAGES, measure, unrounded
from edge.training.scores import has_fast_bfloat16, predict

SAVE_SECONDS = 120.0
RANGE_BATCH = 8

Metric = Callable[[NDArray[np.float32], NDArray[np.int8]], float]


@dataclass(frozen=True)
class Part:
    """A part of a data set: images (N, S, S, 3) uint8 RGB (a memory map will do), labels (N, C)
    int8 of -1, 0 (difficult), 1.

    ``digest`` is the data set's own: a run is not resumed with other images.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int8]
    digest: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def identity(self) -> tuple[tuple[int, ...], str, str]:
        """What tells one part of a data set from another."""
        return self.labels.shape, digest_bytes(np.ascontiguousarray(self.labels).tobytes()), self.digest


@dataclass(frozen=True)
class About:
    """What a checkpoint says of its model: architecture, classes in output order, input side, name
    of the data."""

    model: str
    classes: tuple[str, ...]
    size: int
    data: str


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the best epoch by validation mAP (points), the log's rows, seconds of
    training in all."""

    best_epoch: int
    best_map: float
    rows: tuple[Row, ...]
    seconds: float


class Trainer:
    """One run in one folder.

    Args:
        model: says its own loss, and what it does differently from the recipe.
        train, validation: parts of the train split; the best epoch is chosen on ``validation``.
        metric: scores and labels to mAP in points.
        about: what the checkpoints say of the model.
    """

    def __init__(
        self, model: Network, train: Part, validation: Part, recipe: Recipe, metric: Metric, folder: Path, about: About, *,
        seed: int = 0, device: str = "cpu",
    ) -> None:  # fmt: skip
        self.recipe, self.metric, self.folder, self.about = model.adapted(recipe), metric, folder, about
        self.seed, self.device = seed, torch.device(device)
        self.train_part, self.validation = train, validation
        self.images = _resident(train.images, self.device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.optimiser = _optimiser(self.model, self.recipe)
        self.mean = copy.deepcopy(self.model).eval()  # EMA weights; the same weights where the recipe has none
        # What int8 rounds is not computed in bfloat16, whose own rounding is about as coarse.
        self.state = State(autocast=self.recipe.name != "qat" and has_fast_bfloat16(self.device))
        data = [train.identity(), validation.identity()]
        self.identity = digest_json([asdict(self.recipe), seed, *data, asdict(about), model.spec_options()])

    # ---- the loop --------------------------------------------------------------------------------

    def run(self, progress: Progress | None = None, stop: Callable[[], bool] = lambda: False) -> Outcome:
        """Train to the end of the recipe, or until ``stop()`` says so after a step (state
        saved)."""
        state, total = self.state, sum(self._steps(phase) * phase.epochs for phase in self.recipe.phases)
        if not (self.folder / STATE).is_file():
            self.save()  # before any other file: by its state a folder is known as a run
        if self.recipe.head and not state.rows and not state.updates:
            self._fit_head()
        if not state.updates:
            self._measure()
        saved = time.monotonic()
        for epoch, (phase, first) in enumerate(self._plan()):
            if epoch < state.epoch:
                continue
            steps, order = self._steps(phase), self._order(epoch)
            while state.step < steps:
                started = time.monotonic()
                chosen = order[state.step * phase.batch : (state.step + 1) * phase.batch]
                generator = _generator(self.seed, epoch, state.step)
                self._update(phase, (epoch - first) * steps + state.step, chosen, generator)
                state.step += 1
                state.seconds += time.monotonic() - started
                if progress:
                    progress(state.updates, total)
                if stop():
                    self.save()
                    return self._outcome()
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
            self._finish_epoch(phase, steps)
            saved = time.monotonic()
        return self._outcome()

    def _fit_head(self) -> None:
        started, phase = time.monotonic(), self.recipe.phases[0]
        fitted = fit_head(
            self.model, self.train_part.images, self.train_part.labels, phase.size,
            turns=self.recipe.augmentation.turns, autocast=self.state.autocast, device=self.device,
        )  # fmt: skip
        if fitted:
            self.mean.load_state_dict(self.model.state_dict())
            self.state.seconds += time.monotonic() - started
            self._record(phase.size, {"streams": "head", "lr": "", "loss": ""})

    def _measure(self) -> None:
        """The ranges of a backbone that rounds, from the averaged weights on some training
        images."""
        mean, model = self.mean.features, self.model.features
        if isinstance(mean, Rounded) and isinstance(model, Rounded):
            chosen = self.train_part.images[:: max(1, len(self.train_part) // RANGE_IMAGES)][:RANGE_IMAGES]
            parts = (chosen[first : first + RANGE_BATCH] for first in range(0, len(chosen), RANGE_BATCH))
            pixels = (torch.from_numpy(np.array(each)).permute(0, 3, 1, 2) for each in parts)
            size = self.recipe.phases[-1].size
            measure(self.mean, (normalise(resize(each, size).to(self.device)) for each in pixels))
            model.steps.copy_(mean.steps)

    def _plan(self) -> list[tuple[Phase, int]]:
        """For every epoch its phase and the phase's first epoch."""
        plan: list[tuple[Phase, int]] = []
        for phase in self.recipe.phases:
            plan += [(phase, len(plan))] * phase.epochs
        return plan

    def _steps(self, phase: Phase) -> int:
        return max(1, int(len(self.train_part) * phase.share) // phase.batch)

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(len(self.train_part), generator=_generator(self.seed, epoch, -1))

    def _update(self, phase: Phase, step: int, chosen: Tensor, generator: torch.Generator) -> None:
        progress = step / max(1, self._steps(phase) * phase.epochs - 1)
        rate = phase.lr[1] + (phase.lr[0] - phase.lr[1]) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        images, targets = self._batch(phase, np.sort(chosen.numpy()), generator)
        self.model.train()
        if phase.fixed_norm:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.state.autocast):
            outputs = self.model.training_outputs(images, streams=phase.streams, sample=phase.regions, generator=generator)
        # Labels would move what it computes; for int8 it is to stay what it was.
        features = self.model.features
        loss = features.error() if isinstance(features, Rounded) else self.model.loss(outputs, targets)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.model.observe(outputs, targets)
        self.state.updates += 1
        self.state.loss += float(loss.detach())
        self._average()

    def _batch(self, phase: Phase, indices: NDArray[np.int64], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augmented, normalised images (B, 3, S, S) and targets (B, C) of 0 and 1."""
        pixels = torch.as_tensor(self.images[indices]).permute(0, 3, 1, 2)
        images = normalise(augment(pixels, phase.size, self.recipe.augmentation, generator).to(self.device))
        # Difficult objects count as positive in training, as in the official code.
        return images, torch.from_numpy((self.train_part.labels[indices] >= 0).astype(np.float32)).to(self.device)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.state.updates) / (10 + self.state.updates))
        means, values = self.mean.state_dict(), self.model.state_dict()
        floats = [name for name, value in values.items() if value.is_floating_point()]
        torch._foreach_lerp_([means[name] for name in floats], [values[name] for name in floats], 1 - decay)

    def _finish_epoch(self, phase: Phase, steps: int) -> None:
        state = self.state
        state.epoch, state.step, loss, state.loss = state.epoch + 1, 0, state.loss, 0.0
        if state.epoch == 1:
            self._measure()  # and no more: weights settle for ranges that stay
        rate = round(self.optimiser.param_groups[0]["lr"], 8)
        self._record(phase.size, {"streams": phase.streams, "lr": rate, "loss": round(loss / steps, 5)})

    def _record(self, size: int, done: Row) -> None:
        """Judge the averaged weights on the validation part, and write down what was done to them:
        the log, the best, the state."""
        state, as_shipped = self.state, size == self.recipe.phases[-1].size
        scores = predict(self.mean, self.validation.images, size, all_streams=as_shipped, autocast=state.autocast, device=self.device)
        points = {name: self.metric(values, self.validation.labels) for name, values in scores.items()}
        shipped = points.get(self.model.streams[-1], points[next(iter(points))])
        row: Row = {
            "epoch": state.epoch, "size": size, **done,
            **{f"map_{name}": round(points[name], 3) if name in points else "" for name in self.model.streams},
            "seconds": round(state.seconds, 1),
        }  # fmt: skip
        state.rows.append(row)
        if (as_shipped, shipped) > state.best[:2]:
            state.best = (int(as_shipped), shipped, state.epoch)
            self.write_best()
        self.save()
        self._tell()

    def _tell(self) -> None:
        write_log(self.folder, self.state.rows)
        write_atomically(self.folder / CURVE, draw_curve(self.state.rows))

    def _outcome(self) -> Outcome:
        return Outcome(self.state.best[2], self.state.best[1], tuple(self.state.rows), self.state.seconds)

    # ---- files -----------------------------------------------------------------------------------

    def write_best(self) -> None:
        """The averaged weights in the official format, with our ``edge`` key."""
        about, points = self.about, self.state.best[1]
        save_checkpoint(
            self.folder / BEST, unrounded(self.mean), name=about.model, classes=about.classes, size=about.size, epoch=self.state.epoch,
            best_score=points,
            extra={"data": about.data, "recipe": self.recipe.name, "seed": self.seed, "validation_map": round(points, 3)},
        )  # fmt: skip

    def save(self) -> None:
        """Write the whole state beside its final name, then rename it."""
        modules = {"model": self.model.state_dict(), "mean": self.mean.state_dict(), "optimiser": self.optimiser.state_dict()}
        write_state(self.folder, self.identity, self.state, modules)

    def resume(self) -> bool:
        """Take up the folder's saved state; False where there is none, an error where it belongs to
        another run."""
        path = self.folder / STATE
        if not path.is_file():
            return False
        identity, state, modules = read_state(path)
        if identity != self.identity:
            raise EdgeError(
                "train",
                f"The run in {self.folder} was started with other arguments, images or labels",
                "Use the same arguments and data, or choose another `output`",
            )
        self.state = state
        self.model.load_state_dict(modules["model"])
        self.mean.load_state_dict(modules["mean"])
        self.optimiser.load_state_dict(modules["optimiser"])
        if state.rows:
            self._tell()  # a kill may have come between the state and these
        return True


def _optimiser(model: Network, recipe: Recipe) -> torch.optim.Optimizer:
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        factor = recipe.backbone_lr if id(parameter) in backbone else 1.0
        # AdamW decays weights only; the official SGD decays everything.
        decay = recipe.weight_decay if recipe.optimiser == "sgd" or parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    options = [{"params": list(group), "factor": factor, "weight_decay": decay} for (factor, decay), group in groups.items()]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(options, lr=0.01, momentum=0.9)
    return torch.optim.AdamW(options, lr=1e-3)  # which is Adam where the recipe decays nothing


def _resident(images: NDArray[np.uint8], device: torch.device) -> NDArray[np.uint8] | Tensor:
    """The images (N, S, S, 3) on the GPU, where they take no more than a quarter of what is free;
    else where they are."""
    if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
        return torch.from_numpy(np.array(images)).to(device)
    return images


def _generator(seed: int, epoch: int, step: int) -> torch.Generator:
    digest = int(digest_json([seed, epoch, step])[:15], 16)
    return torch.Generator().manual_seed(digest)
