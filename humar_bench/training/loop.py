"""The training loop: steps, log, evaluations, checkpoints, and going on after a kill as if there had been none.

Accelerate drives the device, the number type and several processes (`torchrun`). What step s does depends on the options and the state
after step s - 1 alone: pictures and prompts are drawn from the data seed and s, dropout from the seed, s and the process. So a checkpoint
holds no state of a random generator, and a run that was resumed has the same losses, on one CPU process to the last bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from humar_bench.args import BUILT_IN
from humar_bench.errors import HumarBenchError, MeasurementError, UsageError, is_out_of_memory, one_line
from humar_bench.training.batches import Steps, evaluation_source, prompt_of, tokens_of, training_batches, training_source
from humar_bench.training.distillation import Distillation
from humar_bench.training.evaluate import Evaluation, logged
from humar_bench.training.extra import check_extra
from humar_bench.training.losses import Criterion, Losses
from humar_bench.training.optim import build_ema, build_optimizer, build_schedule, clip_gradients
from humar_bench.training.run_folder import RunFolder, read_checkpoint, read_options, read_state
from humar_bench.training.saved_model import load_run
from humar_bench.training.state import restore, state_tensors
from humar_bench.training.step import TrainingStep, build_model, device_of, load_start, stream
from humar_bench.training.train_args import TrainArgs
from humar_bench.uniphd import UniPHD

OF_THE_STEPS = 3  # what is drawn from a seed, after those of `step`
MIXED = {"float32": "no", "tf32": "no", "bfloat16": "bf16", "float16": "fp16"}
IN_A_WORKER = "in DataLoader worker process"
Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class RunSummary:
    """How a run ended. Seconds are those of training, without evaluations, over all its parts where it was resumed."""

    folder: Path
    steps: int
    pictures: int
    wall_s: float
    cpu_s: float
    evaluation: dict[str, float]  # the last one, by `evaluate.LOGGED`


def train(
    options: TrainArgs, folder: str | Path, *, resume: bool = False, tell: Tell = lambda event: None, teacher_arch: str | None = None
) -> RunSummary:
    """Train a model into a run folder, from its last checkpoint on with `resume`.

    `tell` hears every line of the log and, of each step, {"kind": "step", "step", "steps"}. `teacher_arch` names the teacher's architecture
    where that is code of its own. Raises UsageError before anything is trained; MeasurementError when training diverges, a worker dies or
    the disk is full: the last checkpoint is then as it was.
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.dtype == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        return _Run(options, folder, tell, teacher_arch).run(resume)
    except HumarBenchError as error:
        if IN_A_WORKER in str(error):  # torch tells it with the worker's traceback
            raise type(error)(str(error).strip().splitlines()[-1].partition("Error: ")[2]) from error
        raise
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MeasurementError(f"memory ran out in training: {one_line(error)}; take a smaller batch.") from error
        if "DataLoader worker" in str(error):
            said = f"a process that prepares pictures died ({one_line(error)}); the last checkpoint is kept, go on with --resume."
            raise MeasurementError(said) from error
        raise
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


class _Clock:
    """Seconds of training, stopped while something else is done."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0
        self.go()

    def go(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall_s += time.perf_counter() - self._wall_s
        self.cpu_s += time.process_time() - self._cpu_s
        self.go()


class _Run:
    """One run in one process."""

    def __init__(self, options: TrainArgs, folder: str | Path, tell: Tell, teacher_arch: str | None) -> None:
        self.options, self.tell, self.folder, self.teacher_arch = options, tell, RunFolder(folder), teacher_arch
        self.accelerator = _accelerator(options)
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.source, self.tokens = training_source(options), tokens_of(options)
        self.step_pictures = options.optim.batch_size * options.accumulate * self.processes
        self.order = Steps(self.source, self.step_pictures, options.data_seed)
        asked = options.pictures or options.optim.epochs * self.order.an_epoch * self.step_pictures
        self.steps = asked // self.step_pictures
        if not self.steps:
            raise UsageError(f"pictures is {options.pictures} and a step takes {self.step_pictures}; train on more.")
        self.evaluation = Evaluation(options, evaluation_source(options), self.tokens)
        self.clock, self.last_evaluation = _Clock(), {}

    def run(self, resume: bool) -> RunSummary:
        try:
            first = self._prepare(resume)
            batches = training_batches(self.options, self.source, self.tokens, self.order, first, self.steps, self.rank)
            self.clock.go()
            for step in range(first, self.steps):
                self._step(step, batches)
            self.clock.stop()
            self.folder.check()
            return RunSummary(
                self.folder.folder, self.steps, self.steps * self.step_pictures, self.clock.wall_s, self.clock.cpu_s, self.last_evaluation
            )
        finally:
            self.folder.close()

    def _prepare(self, resume: bool) -> int:
        """Model, optimiser and what an earlier part of the run left; the first step to be done. A new folder is made once it works."""
        state = self._go_on() if resume else None
        model = build_model(self.options)
        if state is None:
            load_start(model, self.options)
        criterion = Criterion(self.options.loss)
        self.training_step = TrainingStep(model, criterion, self._distillation(model, criterion)).train()
        optimizer = build_optimizer(self.training_step, self.options.optim)
        self.module, self.optimizer = self.accelerator.prepare(self.training_step, optimizer)
        self.model, self.parameters, optim = model, list(model.parameters()), self.options.optim
        if optim.schedule == "cosine":  # to 0 at the last step, whatever an epoch is
            self.schedule = build_schedule(optimizer, dataclasses.replace(optim, epochs=1), self.steps)
        else:
            self.schedule = build_schedule(optimizer, optim, max(self.steps // optim.epochs, 1))
        self.ema = build_ema(model, optim)
        if not resume and self.rank == 0:
            self.folder.start(self.options, _environment(self.accelerator.device))
        self.accelerator.wait_for_everyone()
        if state is None:
            return 0
        restore(read_checkpoint(self.folder.folder, state), state, model, optimizer, self.ema, self.schedule)
        self.clock.wall_s, self.clock.cpu_s, self.last_evaluation = state["wall_s"], state["cpu_s"], state["evaluation"]
        if scaler := self.accelerator.scaler:
            scaler.load_state_dict(state["scaler"])
        return state["step"]

    def _distillation(self, model: UniPHD, criterion: Criterion) -> Distillation | None:
        if not self.options.teacher:
            return None
        folder, own = self.options.teacher, self.options.arch
        same = own not in BUILT_IN and own == read_options(folder).arch  # the user has named this code
        teacher_options, teacher = load_run(folder, self.teacher_arch or (own if same else None))
        return Distillation(self.options, teacher_options, teacher.to(self.accelerator.device), model, criterion)

    def _go_on(self) -> dict[str, Any] | None:
        """The state of the last checkpoint; only the first process holds the log."""
        state = self.folder.go_on(self.options) if self.rank == 0 else read_state(self.folder.folder)
        if state is not None and state["pictures"] != state["step"] * self.step_pictures:
            before = state["pictures"] // max(state["step"], 1)
            raise UsageError(
                f"a step of {self.folder.folder} took {before} pictures and now takes {self.step_pictures}; go on with as many processes "
                "as it was started with."
            )
        return state

    def _step(self, step: int, batches: Iterator) -> None:
        """Step `step`, counted from 0, and what is due after it."""
        torch.manual_seed(stream(self.options.seed, OF_THE_STEPS, step, self.rank))
        rate = self.options.optim.lr * self.schedule.lr_lambdas[0](step)  # groups have shares of it, or rates of their own
        losses, norm = self._learn(step, batches)
        done, pictures = step + 1, (step + 1) * self.step_pictures
        ends = done == self.steps
        every = self.options.evaluate_every
        evaluates = ends or bool(every) and pictures // every > step * self.step_pictures // every
        if self.rank == 0 and (done % self.options.log_every == 0 or ends):
            self.clock.stop()
            values = dict(zip(losses.named, torch.stack([each.detach().float() for each in losses.named.values()]).tolist(), strict=True))
            self._log("step", done, lr=rate, grad_norm=norm, losses={"total": float(losses.total.detach()), **values})
        self.tell({"kind": "progress", "step": done, "steps": self.steps, "pictures": pictures})
        if evaluates:
            self._evaluate(done)
        if self.rank == 0 and (evaluates or done % self.options.checkpoint_every == 0):
            self._keep(done)

    def _learn(self, step: int, batches: Iterator) -> tuple[Losses, float]:
        """Forward, backward, optimiser -> the losses of the last batch and the gradient's norm before it was clipped."""
        options, accelerator = self.options, self.accelerator
        kind, point = prompt_of(options, step)
        for part in range(options.accumulate):
            batch = next(batches).to(accelerator.device)
            with accelerator.no_sync(self.module) if part + 1 < options.accumulate else contextlib.nullcontext():
                losses = self.module(batch, batch.prompt(kind, point))
                accelerator.backward(losses.total / options.accumulate)
        accelerator.unscale_gradients()
        norm = float(clip_gradients(self.parameters, options.optim))
        if norm != norm or norm == float("inf"):
            if not accelerator.scaler:  # which skips such a step and lowers its scale
                raise MeasurementError(
                    f"the gradient of step {step + 1} is not finite: training has diverged; the last checkpoint is kept, lower the "
                    "learning rate and train anew."
                )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return losses, norm

    def _evaluate(self, step: int) -> None:
        self.clock.stop()
        started_s = time.perf_counter()
        gather = _gather if self.processes > 1 else None
        model = self.model if self.ema is None else self.ema.module
        statistics = self.evaluation(model, self.accelerator.device, rank=self.rank, of=self.processes, gather=gather)
        if statistics is not None:
            self.folder.keep_evaluation(step, statistics)
            self.last_evaluation = logged(statistics)
            self._log("evaluation", step, **self.last_evaluation, evaluation_s=time.perf_counter() - started_s)
        self.clock.go()

    def _log(self, kind: str, step: int, **values: Any) -> None:
        clock = {"wall_s": round(self.clock.wall_s, 3), "cpu_s": round(self.clock.cpu_s, 3)}
        line = {"kind": kind, "step": step, "pictures": step * self.step_pictures, **clock, **values}
        self.folder.log(line)
        self.tell(line)

    def _keep(self, step: int) -> None:
        self.clock.stop()
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        state = {
            "pictures": step * self.step_pictures, "wall_s": self.clock.wall_s, "cpu_s": self.clock.cpu_s, "scaler": scaler,
            "evaluation": self.last_evaluation, "schedule": self.schedule.state_dict(),
        }
        optimizer = self.optimizer.optimizer
        self.folder.keep(step, state_tensors(self.model, optimizer, self.ema), state)
        self.clock.go()


def _accelerator(options: TrainArgs) -> Any:
    """Accelerate's object for this process. Raises UsageError where a library or the device is missing."""
    check_extra()
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    on_cpu = device_of(options.device).type == "cpu"
    if options.dtype == "tf32" and on_cpu:
        raise UsageError("dtype is tf32, which CUDA devices have, and training runs on the CPU; choose float32 or bfloat16.")
    AcceleratorState._reset_state()  # an earlier run of this process may have had another number type
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a step has one kind of prompt, the others' weights rest
    return Accelerator(cpu=on_cpu, mixed_precision=MIXED[options.dtype], kwargs_handlers=[unused])


def _gather(values: list[Any]) -> list[Any]:
    from accelerate.utils import gather_object

    return gather_object(values)


def _environment(device: torch.device) -> dict[str, Any]:
    from humar_bench.devices.environment import environment
    from humar_bench.devices.opening import open_device

    return environment(open_device("cuda") if device.type == "cuda" else None)
