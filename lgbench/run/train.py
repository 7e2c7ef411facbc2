"""Train one model: the same numbers whether interrupted or not, on a GPU by captured graphs.

The context length of every step is drawn from the training range (that of the current stage, where the recipe
has a curriculum) by (seed, step, stage) alone. See `lgbench.run.graphs` for how few graphs serve all lengths.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from lgbench.interrupt import finishing, saves_first
from lgbench.method import Method
from lgbench.models.model import build_model
from lgbench.models.transformer import DropPath
from lgbench.plan.cells import Training
from lgbench.run import saved
from lgbench.run.backlog import Backlog
from lgbench.run.branch import may_branch
from lgbench.run.graphs import stepper_of
from lgbench.run.optimizer import adam_of, set_rate
from lgbench.run.schedule import draw_lengths, learning_rate
from lgbench.run.stack import Stack, in_stacks, teams
from lgbench.task import Batch, Task

LOG_EVERY = 100
"""Steps between two looks at the loss; without a curriculum the only moments that wait for the device."""

STAGE_STEPS = 20
"""Steps of a stage whose accuracy decides whether the next one comes."""


class Diverged(Exception):
    """The training loss is no longer a finite number."""


class Trainer:
    """One training, from a seed or from where it was interrupted.

    Args:
        training: settings; nothing else influences the result.
        task: prepared task; its device is where training runs.
        method: the method that is trained.
        folder: where weights and the resumable state go.
        milestones: steps after which weights are kept, besides the last.
        scan_backend: see `lgbench.ops.scan.selective_scan`.
        handovers: steps after which a state is left in these folders, of trainings that go on from there.
    """

    def __init__(
        self,
        training: Training,
        task: Task,
        method: Method,
        folder: Path,
        milestones: Iterable[int] = (),
        scan_backend: str = "auto",
        handovers: Mapping[int, Sequence[Path]] = MappingProxyType({}),
    ) -> None:
        self.training, self.task, self.recipe, self.folder = training, task, training.recipe, folder
        self.method = method
        self.milestones = {*milestones, self.recipe.train_steps}
        self.device = task.device
        self.model = build_model(
            task, method, self.recipe, seed=training.seed, scan_backend=scan_backend,
            backbone=training.backbone, params=json.loads(training.backbone_params),
        ).train()  # fmt: skip
        self.handovers = handovers if may_branch(self.model.intervention) else {}
        self.generator = torch.Generator(self.device).manual_seed(training.seed)
        for module in self.model.modules():
            if isinstance(module, DropPath):
                module.generator = self.generator
        self.carried = self.model.intervention.begin_training(
            self.model.backbone,
            self.recipe.batch_size * max(self.recipe.stage_batches or (1,)),
            self.generator,
        )
        self.parameters = list(self.model.parameters())
        self.optimizer = adam_of(self.model, self.recipe, self.device)
        self.log = torch.zeros(LOG_EVERY, device=self.device)
        self.accuracy = torch.zeros(STAGE_STEPS, device=self.device)
        self.stage, self.stage_steps = 0, 0
        self.step, self.wall_s = 0, 0.0
        self.kept = 0
        """The last milestone whose weights were saved."""
        self.counted, self.drawn_tokens = 0, torch.zeros((), dtype=torch.long, device=self.device)
        self.history: list[tuple[int, float]] = []
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.stack: Stack | None = None
        self.stepper = stepper_of(self)
        self._saved_at = time.monotonic()

    @property
    def tokens(self) -> int:
        """Read so far, contexts and queries, padding not counted; waits for the device."""
        return self.counted + int(self.drawn_tokens)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.recipe.train_steps

    def next_look(self) -> int:
        """Steps done at the next look at the loss, which comes at every milestone and handover too."""
        stop = min(self.recipe.train_steps, (self.step // LOG_EVERY + 1) * LOG_EVERY)
        return min([stop, *(m for m in (*self.milestones, *self.handovers) if m > self.step)])

    def settle(self, began: float, num_trainers: int) -> None:
        """Wait for the queued steps and count their time.

        Args:
            began: when the first of these steps was queued, `time.monotonic()`.
            num_trainers: trainings that shared the device since then; each bears its part of the time.
        """
        if self.stream is not None:
            self.stream.synchronize()
        self.wall_s += (time.monotonic() - began) / num_trainers

    def look(self) -> None:
        """Look at the losses of the last steps, which are over; keep what a milestone or a handover asks for.

        Raises:
            Diverged: the loss is not finite.
            UserError: the weights cannot be written.
        """
        losses = self.log[: min(self.step, LOG_EVERY)].tolist()
        if not all(map(math.isfinite, losses)):
            bad = next(loss for loss in losses if not math.isfinite(loss))
            raise Diverged(f"loss became {bad} before step {self.step}")
        if self.step in self.milestones or self.step % LOG_EVERY == 0:
            self.history.append((self.step, sum(losses) / len(losses)))
        if self.step in self.milestones:
            self.save_weights()
        for folder in self.handovers.get(self.step, ()):
            saved.save_resume(self, folder)

    def one_step(self) -> None:
        """One optimiser step, queued on the trainer's stream; of all trainings of its stack where it is in
        one.
        """
        if self.stack is None:
            in_stacks([self])
        if self.stack is not None:
            self.stack.one_step()
            return
        length, num_queries, stage = draw_lengths(self.training, self.step, self.stage)
        with torch.cuda.stream(self.stream):
            set_rate(self.optimizer, learning_rate(self.recipe, self.step))
            self.model.intervention.begin_step(self.training.seed, self.step, self.recipe.train_steps)
            if self.task.exchangeable:
                self.counted += self.recipe.batch_size * (length + num_queries)
            loss, accuracy = self.stepper.step(length, num_queries, stage)
            self.log[self.step % LOG_EVERY].copy_(loss)
            if self.recipe.stages and stage == self.stage:
                self._count(accuracy)
        self.step += 1

    def _count(self, accuracy: Tensor) -> None:
        """Take the accuracy of a step of the newest stage; after `STAGE_STEPS` of them maybe go on."""
        self.accuracy[self.stage_steps % STAGE_STEPS].copy_(accuracy)
        self.stage_steps += 1
        last = self.stage == len(self.recipe.stages) - 1
        if last or self.stage_steps % STAGE_STEPS:
            return
        if self.accuracy.mean().item() > self.recipe.stage_accuracy:
            self.stage, self.stage_steps = self.stage + 1, 0

    def draw(self, length: int, num_queries: int, stage: int) -> Batch:
        """Training items of a stage, with the trainer's own generator; their tokens are counted."""
        asked = (self.recipe.batch_at(stage), length, num_queries, self.generator)
        if self.recipe.stages:
            batch = self.task.sample_stage(*asked, self.recipe.stages[stage])
        else:
            batch = self.task.sample(*asked)
        self.drawn_tokens += batch.num_tokens()
        return batch

    def compute(
        self, length: int | Tensor, num_queries: int | Tensor, drawn_length: int, drawn_queries: int
    ) -> tuple[Tensor, Tensor]:
        """Sample, then `update`.

        Args:
            length: context tokens to use.
            num_queries: queries to use.
            drawn_length: context tokens to draw, at least `length`; the surplus is masked on the left.
            drawn_queries: queries to draw, at least `num_queries`.
        """
        batch = self.task.sample(self.recipe.batch_size, drawn_length, drawn_queries, self.generator)
        context_mask = query_mask = None
        if isinstance(length, Tensor):
            place = torch.arange(drawn_length, device=self.device)
            context_mask = place >= drawn_length - length
        if isinstance(num_queries, Tensor):
            query_mask = torch.arange(drawn_queries, device=self.device) < num_queries
        return self.update(batch, length, context_mask, query_mask)

    def update(
        self,
        batch: Batch,
        length: int | Tensor,
        context_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Forward, backward, clip and update; the loss before it, and the accuracy where stages need it."""
        recipe = self.recipe
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            answer = self.method.training_answer(
                self.model, batch, length=length, context_mask=context_mask, query_mask=query_mask,
                read_tokens=recipe.lm_weight > 0,
            )  # fmt: skip
            losses = self.task.loss(answer.predictions, batch.targets)
        if query_mask is None:
            loss = losses.mean()
        else:
            loss = losses.masked_fill(~query_mask, 0).sum() / (len(losses) * query_mask.sum())
        if answer.token_loss is not None:
            loss = (loss + recipe.lm_weight * answer.token_loss) / (1 + recipe.lm_weight)
        if answer.loss is not None:
            loss = answer.loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, recipe.grad_clip, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            accuracy = self.task.score(answer.predictions, batch.targets).mean() if recipe.stages else loss
        return loss.detach(), accuracy.detach()

    def save_weights(self) -> None:
        """Keep the weights of this step, with loss, time and speed."""
        saved.save_weights(self)

    def save_resume(self) -> None:
        """Keep everything that a resumed run needs to end with the same numbers."""
        saved.save_resume(self, self.folder)
        self._saved_at = time.monotonic()

    def save_resume_every(self, seconds: float) -> None:
        """`save_resume`, if that long has passed since the last time."""
        if time.monotonic() - self._saved_at >= seconds and not self.finished:
            self.save_resume()

    def resume(self) -> bool:
        """Go on from a saved state if there is a whole one that does not skip a missing milestone."""
        return saved.resume(self)


def train_all(
    trainers: list[Trainer],
    *,
    save_every_s: float = 60.0,
    on_progress: Callable[[Trainer], None] = lambda trainer: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[Trainer, Diverged]:
    """Train several models on one device side by side, each exactly as it would train alone.

    Args:
        trainers: unfinished trainings.
        save_every_s: seconds between two resumable states.
        on_progress: called after each look at a loss.
        should_stop: asked after each step; when true, states are saved and `KeyboardInterrupt` is raised.

    Returns:
        The trainings that diverged; the others went on.
    """
    with saves_first():
        return _train_all(trainers, save_every_s, on_progress, should_stop)


def _train_all(
    trainers: list[Trainer],
    save_every_s: float,
    on_progress: Callable[[Trainer], None],
    should_stop: Callable[[], bool],
) -> dict[Trainer, Diverged]:
    diverged: dict[Trainer, Diverged] = {}
    active = [t for t in trainers if not t.finished]
    in_stacks(active)
    backlog = Backlog() if active and active[0].device.type == "cuda" else None
    while active:
        began = time.monotonic()
        stops = {t: t.next_look() for t in active}
        ends = {leader: min(stops[t] for t in team) for leader, team in teams(active).items()}
        while pending := [t for t, end in ends.items() if t.step < end]:
            for trainer in pending:  # one step each in turn, so that the device sees work of all of them
                trainer.one_step()
            if backlog is not None:
                backlog.keep_short([trainer.stream for trainer in pending])
            if should_stop() or time.monotonic() - began >= save_every_s:
                break
        for trainer in active:
            trainer.settle(began, len(active))
            if trainer.step == stops[trainer]:
                try:
                    trainer.look()
                except Diverged as error:
                    diverged[trainer] = error
                    continue
                if trainer.history and trainer.history[-1][0] == trainer.step:
                    on_progress(trainer)
            trainer.save_resume_every(save_every_s)
        active = [t for t in active if t not in diverged and not t.finished]
        if active and should_stop():
            with finishing():
                for trainer in active:
                    trainer.save_resume()
            raise KeyboardInterrupt
    return diverged
