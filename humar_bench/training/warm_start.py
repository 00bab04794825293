"""A head start for everything before the transformer: it learns to say in which cell each keypoint of the meant person lies.

In procedural pictures of several people everybody is asked about (`questions.py`); elsewhere a picture has the question it comes with.
What comes out is shared by all architectures of a study, so that they start from the same features and differ in the transformer alone.
It is generous: much of finding keypoints is learned here. A small convolutional head reads the levels, all enlarged to the finest, and is
thrown away.

Shapes: B pictures, C width, K keypoints, (h, w) the finest level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humar_bench.data.levels import levels_of
from humar_bench.data.targets import TargetBatch
from humar_bench.training.batches import Steps, Tokens, prompt_of, tokens_of, training_batches, training_source
from humar_bench.training.optim import build_optimizer, build_schedule, clip_gradients
from humar_bench.training.options import OptimArgs
from humar_bench.training.questions import Questions, question_batches
from humar_bench.training.run_folder import as_safetensors, write_atomically
from humar_bench.training.similarity import oks
from humar_bench.training.step import build_model, device_of, front_end_of, load_front_end, stream
from humar_bench.training.train_args import TrainArgs
from humar_bench.uniphd import UniPHD

OF_WARM_START = 4  # what is drawn from a seed, after those of the loop
WARM_OPTIM = OptimArgs.preset("small", lr=1e-3, lr_backbone=1e-3, lr_adjacent_matrix=1e-3, use_ema=False)
SMOOTH = 0.98  # of the figures that are told


@dataclass(frozen=True)
class WarmStart:
    """What came of it: mean loss and OKS of the head's best cells over the last tenth of the pictures."""

    path: Path
    pictures: int
    loss: float
    oks: float


class CellHead(nn.Module):
    """Levels of [B, C, h_l, w_l] -> logits [B, K, h * w] of the finest level's cells."""

    def __init__(self, width: int, keypoints: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, keypoints, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        size = levels[0].shape[2:]
        summed = sum(F.interpolate(each, size=size, mode="bilinear", align_corners=False) for each in levels)
        return self.out(F.gelu(self.mix(summed))).flatten(2)


def cell_loss(logits: Tensor, targets: TargetBatch, size: tuple[int, int]) -> Tensor:
    """Cross-entropy of every visible keypoint of the first person, its place spread over the four nearest cells: logits [B, K, h * w]."""
    height, width = size
    x, y = (targets.points[:, 0] * torch.tensor([width, height], device=logits.device) - 0.5).unbind(-1)  # [B, K] in cells
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.floor(), y.floor()
    log, total = logits.log_softmax(-1), logits.new_zeros(logits.shape[:2])
    for right in (0, 1):
        for below in (0, 1):
            weight = (1 - (left + right - x).abs()) * (1 - (top + below - y).abs())
            cell = (top + below).clamp(max=height - 1) * width + (left + right).clamp(max=width - 1)
            total = total - weight * log.gather(-1, cell.long().unsqueeze(-1)).squeeze(-1)
    visible = targets.visible[:, 0]
    return (total * visible).sum() / visible.sum().clamp(min=1)


def warm_start(
    options: TrainArgs, path: str | Path, *, optim: OptimArgs = WARM_OPTIM, tell: Callable[[dict], None] = lambda event: None
) -> WarmStart:
    """Train what stands before the transformer of `options` on its pictures and keep it in a safetensors file.

    It begins with the weights of `options.front_end` where there are any: easy pictures first. The transformer of `options.arch` is built
    and not used. `tell` hears {"step", "steps", "loss", "oks"}. Raises UsageError.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    of_steps, steps = _steps(dataclasses.replace(options, optim=optim, accumulate=1), tokens_of(options))
    device = device_of(options.device)
    model = build_model(options).to(device).train()
    if options.front_end:
        load_front_end(model, options.front_end)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(options.seed, OF_WARM_START))
        trained = nn.ModuleDict({name: module for name, module in _front_end_modules(model)})
        trained["head"] = CellHead(options.model.hidden_dim, options.model.num_body_points).to(device)
        optimizer = build_optimizer(trained, optim)
        schedule = build_schedule(optimizer, dataclasses.replace(optim, epochs=1), steps)
        mean_loss = mean_oks = 0.0
        for step, (batch, first, of) in enumerate(of_steps):
            torch.manual_seed(stream(options.seed, OF_WARM_START, step))
            kind, point = prompt_of(options, step)
            batch, first, of = batch.to(device), first.to(device), of.to(device)
            maps = [each[of] for each in model.backbone[0](batch.images[first])]
            levels = model.fused(maps, batch.padding, batch.prompt(kind, point))[1]
            logits, size = trained["head"](levels), tuple(levels[0].shape[2:])
            loss = cell_loss(logits, batch.targets, size)
            loss.backward()
            clip_gradients(trained.parameters(), optim)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            share = min(SMOOTH, step / (step + 1))
            mean_loss = share * mean_loss + (1 - share) * loss.item()
            mean_oks = share * mean_oks + (1 - share) * _oks_of_cells(logits.detach(), batch.targets, size)
            tell({"step": step + 1, "steps": steps, "loss": mean_loss, "oks": mean_oks})
    write_atomically(Path(path), as_safetensors({name: value.clone() for name, value in front_end_of(model).items()}))
    return WarmStart(Path(path), steps * optim.batch_size, mean_loss, mean_oks)


def _steps(options: TrainArgs, tokens: Tokens | None) -> tuple[Iterator[Questions], int]:
    """What every step sees, and how many steps there are."""
    levels = levels_of(options.data) or ()
    asks = len(levels) == 1 and levels[0] > 0 and not options.augment  # of a curriculum each picture has its one question
    source = training_source(dataclasses.replace(options, rendered="") if asks else options)
    batch = options.optim.batch_size
    steps, order = (options.pictures or len(source)) // batch, Steps(source, batch, options.data_seed)
    if asks:
        return question_batches(options, source, tokens, order, steps), steps
    each = torch.arange(batch)
    return (Questions(asked, each, each) for asked in training_batches(options, source, tokens, order, 0, steps)), steps


def _front_end_modules(model: UniPHD) -> list[tuple[str, nn.Module]]:
    names = {name.partition(".")[0] for name in front_end_of(model)}
    return [(name, module) for name, module in model.named_children() if name in names]


def _oks_of_cells(logits: Tensor, targets: TargetBatch, size: tuple[int, int]) -> float:
    """Mean OKS of each keypoint at its best cell."""
    height, width = size
    best = logits.argmax(-1)
    points = torch.stack(((best % width + 0.5) / width, (best // width + 0.5) / height), dim=-1)
    return oks(points, targets.points[:, 0], targets.visible[:, 0], targets.area[:, 0]).mean().item()
