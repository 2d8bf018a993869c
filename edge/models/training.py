"""Training any network, so that a run may be killed at any moment and goes on as if nothing had happened.

Everything random is drawn from (seed, epoch, step), the learning rate follows from the step, and the rest of the state is
saved whole every few minutes: on a CPU with a fixed number of threads a resumed run is bit-equal to an unbroken one.
"""

from __future__ import annotations

import copy
import csv
import io
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.atomic import check_folder_writable, is_partial, write_atomically
from edge.errors import EdgeError
from edge.manifest import digest_bytes, digest_json
from edge.models.augmentation import augment, normalise, resize
from edge.models.checkpoint import load_checkpoint, read, save_checkpoint, state_of
from edge.models.curve import draw_curve
from edge.models.network import Network
from edge.models.recipes import Phase, Recipe

STATE, BEST, LOG, CURVE, PIXELS = "state.pt", "best.pth", "log.csv", "curve.png", ".pixels"
SAVE_SECONDS = 120.0
STATE_KEYS = ("identity", "model", "mean", "optimiser", "epoch", "step", "updates", "loss", "seconds", "rows", "best", "autocast")
_ANOTHER = "Start again in another `output`"

Metric = Callable[[NDArray[np.float32], NDArray[np.int8]], float]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """A part of a data set: images (N, S, S, 3) uint8 RGB (a memory map will do), labels (N, C) int8 of -1, 0 (difficult), 1.

    ``digest`` is the data set's own: a run is not resumed with other images.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int8]
    digest: str = ""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class About:
    """What a checkpoint says of its model: architecture, classes in output order, input side, name of the data."""

    model: str
    classes: tuple[str, ...]
    size: int
    data: str


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the best epoch by validation mAP (points), the log's rows, seconds of training in all."""

    best_epoch: int
    best_map: float
    rows: tuple[Mapping[str, Any], ...]
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
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.optimiser = _optimiser(self.model, self.recipe)
        self.mean = copy.deepcopy(self.model).eval()  # EMA weights; the same weights where the recipe has none
        self.autocast = _has_fast_bfloat16(self.device)
        self.epoch = self.step = self.updates = 0
        self.loss = self.seconds = 0.0
        self.rows: list[dict[str, Any]] = []
        self.best = (-1, -1.0, 0)  # (evaluated as shipped, mAP, epoch)
        self.identity = digest_json([asdict(self.recipe), seed, _data(train), _data(validation), asdict(about), model.spec_options()])

    # ---- the loop --------------------------------------------------------------------------------------------------

    def run(self, progress: Progress | None = None, stop: Callable[[], bool] = lambda: False) -> Outcome:
        """Train to the end of the recipe, or until ``stop()`` says so after a step (state saved)."""
        total = sum(self._steps(phase) * phase.epochs for phase in self.recipe.phases)
        saved = time.monotonic()
        for epoch, (phase, first) in enumerate(self._plan()):
            if epoch < self.epoch:
                continue
            steps, order = self._steps(phase), self._order(epoch)
            while self.step < steps:
                started = time.monotonic()
                chosen = order[self.step * phase.batch : (self.step + 1) * phase.batch]
                generator = _generator(self.seed, epoch, self.step)
                self._update(phase, (epoch - first) * steps + self.step, chosen, generator)
                self.step += 1
                self.seconds += time.monotonic() - started
                if progress:
                    progress(self.updates, total)
                if stop():
                    self.save()
                    return self._outcome()
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
            self._finish_epoch(phase, steps)
            saved = time.monotonic()
        return self._outcome()

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
        indices = np.sort(chosen.numpy())
        pixels = torch.from_numpy(np.array(self.train_part.images[indices])).permute(0, 3, 1, 2)
        images = augment(pixels, phase.size, self.recipe.augmentation, generator)
        images = normalise(images.to(self.device))
        # Difficult objects count as positive in training, as in the official code.
        targets = torch.from_numpy((self.train_part.labels[indices] >= 0).astype(np.float32)).to(self.device)
        self.model.train()
        if phase.fixed_norm:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            outputs = self.model.training_outputs(images, streams=phase.streams, sample=phase.regions, generator=generator)
        loss = self.model.loss(outputs, targets)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.model.observe(outputs, targets)
        self.updates += 1
        self.loss += float(loss.detach())
        self._average()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.updates) / (10 + self.updates))
        means, values = self.mean.state_dict(), self.model.state_dict()
        floats = [name for name, value in values.items() if value.is_floating_point()]
        torch._foreach_lerp_([means[name] for name in floats], [values[name] for name in floats], 1 - decay)

    def _finish_epoch(self, phase: Phase, steps: int) -> None:
        if not (self.folder / STATE).is_file():
            self.save()  # before any other file: by its state a folder is known as a run
        as_shipped = phase.size == self.recipe.phases[-1].size
        scores = predict(self.mean, self.validation.images, phase.size, all_streams=as_shipped, autocast=self.autocast, device=self.device)
        points = {name: self.metric(values, self.validation.labels) for name, values in scores.items()}
        shipped = points.get(self.model.streams[-1], points[next(iter(points))])
        self.epoch, self.step = self.epoch + 1, 0
        row = {
            "epoch": self.epoch, "size": phase.size, "streams": phase.streams, "lr": round(self.optimiser.param_groups[0]["lr"], 8),
            "loss": round(self.loss / steps, 5),
            **{f"map_{name}": round(points[name], 3) if name in points else "" for name in self.model.streams},
            "seconds": round(self.seconds, 1),
        }  # fmt: skip
        self.rows.append(row)
        self.loss = 0.0
        candidate = (int(as_shipped), shipped, self.epoch)
        if candidate[:2] > self.best[:2]:
            self.best = candidate
            self.write_best()
        self.save()
        write_atomically(self.folder / LOG, _csv(self.rows))
        write_atomically(self.folder / CURVE, draw_curve(self.rows))

    def _outcome(self) -> Outcome:
        return Outcome(self.best[2], self.best[1], tuple(self.rows), self.seconds)

    # ---- files -----------------------------------------------------------------------------------------------------

    def write_best(self) -> None:
        """The averaged weights in the official format, with our ``edge`` key."""
        extra = {"data": self.about.data, "recipe": self.recipe.name, "seed": self.seed, "validation_map": round(self.best[1], 3)}
        about = self.about
        save_checkpoint(
            self.folder / BEST, self.mean, name=about.model, classes=about.classes, size=about.size, epoch=self.epoch,
            best_score=self.best[1], extra=extra,
        )  # fmt: skip

    def save(self) -> None:
        """Write the whole state beside its final name, then rename it."""
        content = {
            "identity": self.identity, "model": self.model.state_dict(), "mean": self.mean.state_dict(),
            "optimiser": self.optimiser.state_dict(), "epoch": self.epoch, "step": self.step, "updates": self.updates, "loss": self.loss,
            "seconds": self.seconds, "rows": self.rows, "best": list(self.best), "autocast": self.autocast,
        }  # fmt: skip
        write_atomically(self.folder / STATE, _saved(content))

    def resume(self) -> bool:
        """Take up the folder's saved state; False where there is none, an error where it belongs to another run."""
        path = self.folder / STATE
        if not path.is_file():
            return False
        state = _read_state(path)
        if state["identity"] != self.identity:
            raise EdgeError(
                "train",
                f"The run in {self.folder} was started with another model, recipe, seed or size, or with other images or labels",
                "Give the same arguments and data again, or choose another `output`",
            )
        self.model.load_state_dict(state["model"])
        self.mean.load_state_dict(state["mean"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.step, self.updates, self.loss = state["epoch"], state["step"], state["updates"], state["loss"]
        self.seconds, self.rows, self.autocast = state["seconds"], state["rows"], state["autocast"]
        self.best = tuple(state["best"])
        return True


# ---- before and after ----------------------------------------------------------------------------------------------


def start(model: Network, seed: int, weights: Path | None = None) -> Network:
    """Random weights from the seed; then those of a checkpoint.

    What lies behind the backbone comes from the checkpoint where it has it in the same shape: one of other classes, or of another
    architecture with the same backbone, gives what it can.
    """
    model.initialise(torch.Generator().manual_seed(seed))
    if weights is None:
        return model
    found, own = state_of(read(weights)), model.state_dict()
    fresh = {name for name in own if not name.startswith("features.") and (name not in found or found[name].shape != own[name].shape)}
    kept = {name: value for name, value in found.items() if name in own and name not in fresh}
    load_checkpoint(model, {**kept, **{name: own[name] for name in fresh}})
    return model


def choose_device(name: str) -> str:
    """``auto`` is the first GPU, else the CPU."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise EdgeError(
            "train", f"The device {name} cannot be used: {str(error).splitlines()[0][:80]}", "Set `device` to auto, cpu or cuda"
        ) from error
    return name


def check_folder(folder: Path, *, resume: bool) -> None:
    """Refuse a folder to train in that cannot be written, or holds anything but a run that shall go on."""
    check_folder_writable(folder)
    found = sorted(os.listdir(folder)) if folder.is_dir() else []
    if STATE in found:
        if not resume:
            raise EdgeError("train", f"{folder} holds a run already", "Add `resume` to go on with it, or choose another `output`")
        _read_state(folder / STATE)
        return
    foreign = [name for name in found if name != PIXELS and not is_partial(name)]
    if foreign:
        raise EdgeError("train", f"{folder} holds {foreign[0]}, and is no folder of a run", "Choose a new or an empty folder: `output`")


def _read_state(path: Path) -> dict[str, Any]:
    """A saved state, of which run ever; an error where it is damaged or something else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = [name for name in STATE_KEYS if name not in state]
    except Exception as error:  # torch, zipfile and pickle each raise their own
        why = (str(error).splitlines() or [type(error).__name__])[0][:80]
        raise EdgeError("train", f"{path} is damaged, or no state of a run: {why}", _ANOTHER) from error
    if missing:
        raise EdgeError("train", f"{path} is no state of a run: it lacks {missing[0]!r}", _ANOTHER)
    return dict(state)


def score(model: Network, weights: Path, part: Part, size: int, device: str = "cpu") -> dict[str, NDArray[np.float32]]:
    """Scores (N, C) of each of a checkpoint's streams in float32."""
    load_checkpoint(model, weights)
    return predict(model, part.images, size, all_streams=True, autocast=False, device=torch.device(device))


@torch.no_grad()
def predict(
    model: Network, images: NDArray[np.uint8], size: int, *, all_streams: bool, autocast: bool, device: torch.device, batch: int = 16
) -> dict[str, NDArray[np.float32]]:
    """Scores (N, C) of the model's streams in evaluation mode; without ``all_streams`` of those that come cheap."""
    model.eval()
    parts: list[dict[str, Tensor]] = []
    for first in range(0, len(images), batch):
        pixels = torch.from_numpy(np.array(images[first : first + batch])).permute(0, 3, 1, 2)
        inputs = normalise(resize(pixels, size).to(device))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            parts.append({name: value.cpu() for name, value in model.stream_scores(inputs, all_streams=all_streams).items()})
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


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


def _generator(seed: int, epoch: int, step: int) -> torch.Generator:
    digest = int(digest_json([seed, epoch, step])[:15], 16)
    return torch.Generator().manual_seed(digest)


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def _data(part: Part) -> list[Any]:
    """What tells one part of a data set from another."""
    return [list(part.labels.shape), digest_bytes(np.ascontiguousarray(part.labels).tobytes()), part.digest]


def _saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
