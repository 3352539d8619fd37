"""`Job`: model, data and settings prepared once; every budget is then one run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant._version import __version__
from sigmaquant.budget import Budget
from sigmaquant.data import DataSource, Keys, Structure, as_source, split
from sigmaquant.data.batch import describe_inputs
from sigmaquant.errors import DataError, DistributedError, SigmaQuantError, UnreachableBudgetError, near_matches
from sigmaquant.export.deployed import DeployedCosts
from sigmaquant.graph import QuantGraph, trace
from sigmaquant.graph.inputs import map_tensors, read_arguments
from sigmaquant.graph.reading import precision_note, read_copy
from sigmaquant.hardware.profile import HardwareProfile, load_profile, shipped_profiles
from sigmaquant.outputs import outputs_note
from sigmaquant.parallel import alone, is_main, world_size
from sigmaquant.quant.coverage import coverage
from sigmaquant.report import LayersDocument, describe_layers, refresh_report
from sigmaquant.runs import NullProgress, Progress, RunDirectory, logging_to, task
from sigmaquant.search.callbacks import Announced, Callback, call_all
from sigmaquant.search.driver import Driver
from sigmaquant.search.search_state import NullRecorder
from sigmaquant.search.session import Data, Session, Statistics
from sigmaquant.search.settings import Settings
from sigmaquant.search.strategies import STRATEGIES
from sigmaquant.search.timing import told
from sigmaquant.search.warm_start import Start
from sigmaquant.tasks import Metric, Task, TaskLoss, as_task, identity
from sigmaquant.training.devices import Device, choose_device
from sigmaquant.training.metrics import evaluate, outputs_of
from sigmaquant.training.student import first
from sigmaquant.workflow.cautions import cautions
from sigmaquant.workflow.control import Contender, between, noise, run_control, run_next_wider, weigh
from sigmaquant.workflow.loading import keys_of, weights_digest
from sigmaquant.workflow.pruning import Pruned, origin_session, prune_and_open
from sigmaquant.workflow.results import Control, QuantizationResult, Scores, costly_activations

log = logging.getLogger("sigmaquant")


_SHOWN = 32
"""Examples among which a task chooses those that the report shows."""


class Job:
    """What all runs over one network share: the arguments of `sigmaquant.quantize` without budget and directory.

    Statistics of the float network are computed by the first run and kept for the others.

    Raises:
        SigmaQuantError: bad input.
    """

    def __init__(
        self,
        model: nn.Module,
        train_data: Any,
        *,
        validation_data: Any = None,
        test_data: Any = None,
        task: Task | str | None = None,
        metric: Metric | str | None = None,
        loss: TaskLoss | None = None,
        hardware: str | Path | HardwareProfile = "ideal",
        settings: Settings | None = None,
        device: str = "auto",
        statistics: Statistics | None = None,
    ) -> None:
        self.settings = settings or Settings()
        if self.settings.strategy not in ("sigma", *STRATEGIES):
            known = near_matches(self.settings.strategy, ("sigma", *STRATEGIES))
            raise SigmaQuantError(f"there is no strategy {self.settings.strategy!r}. {known}")
        self.task = as_task(task, metric, loss, self.settings.outputs)
        self.task.check()
        self._check_loss()
        self.device = choose_device(device, self.settings.bf16)
        keys = keys_of(model, self.task)
        self.data, self.notes = gather_data(train_data, validation_data, test_data, self.settings, keys)
        if loss is not None and not self.settings.trains:
            self.notes += ("the loss was not used: nothing is trained",)
        elif loss is not None and self.settings.distill == 1:
            self.notes += ("the loss was not used: the networks learn from the float network alone (distill=1)",)
        profile = hardware if isinstance(hardware, HardwareProfile) else load_profile(hardware)
        self._model, self._profile = model, profile
        self.graph = trace_copy(model, self.data, self.device)
        nodes = self.graph.module.graph
        returned = nodes.process_outputs(nodes.output_node().args[0])  # in the containers of the user
        chosen = type(self.task).outputs is not Task.outputs or self.task.output is not None
        own = None if chosen else outputs_note(returned)
        self.notes += tuple(note for note in (precision_note(model), own, _left_out(self.data.train)) if note)
        self.costs = DeployedCosts(self.graph, profile)
        self.config: dict[str, Any] = {
            "settings": self.settings.to_dict(),
            "hardware": hardware if hardware in shipped_profiles() else profile.to_dict(),
            "metric": self.task.metric_name,
            "loss": None if loss is None else getattr(loss, "__name__", type(loss).__name__),
            "task": identity(self.task),
            "model": self.graph.fingerprint,
            "float_sha256": weights_digest(model),
            "train_examples": self.data.train.examples,
            "validation_examples": self.data.validation.examples,
        }
        self.statistics = statistics or Statistics()
        self._session: Session | None = None
        self._origin: Session | None = None

    def run(
        self,
        budget: Budget | str,
        *,
        run_dir: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
        progress: Progress | None = None,
        start: Start | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> QuantizationResult:
        """Fit the network into one budget; arguments as for `sigmaquant.quantize`.

        Args:
            start: a finished run to begin from in place of phase 1.
            callbacks: as for `sigmaquant.quantize`.

        Raises:
            SigmaQuantError: see `sigmaquant.quantize`.
        """
        budget = budget if isinstance(budget, Budget) else Budget(size=budget)
        progress = progress or NullProgress()
        config = {**self.config, "budget": budget.to_dict()}
        if start is not None:
            config["start"] = start.record()
        if overwrite and not self.settings.prune:
            self.session(budget)  # what is refused must not cost the run that is there
        with contextlib.ExitStack() as stack:
            recorder: RunDirectory | None = None
            if run_dir is not None and is_main():
                recorder = stack.enter_context(RunDirectory(run_dir, config=config, resume=resume, overwrite=overwrite))
            elif run_dir is None and (resume or overwrite):
                raise SigmaQuantError("resume and overwrite need a run directory: run_dir=, or --out.")
            stack.enter_context(
                logging_to(recorder.log_path if recorder else None, stderr_level=logging.WARNING if is_main() else None)
            )
            stack.enter_context(self.device.random_state(self.settings.seed))
            notes = self.notes if start is None else (*self.notes, start.note)
            for note in notes:
                log.info(note)
            if world_size() > 1:
                log.info("%d processes compute together; BatchNorm is synchronised in training", world_size())
            if self.settings.trains:
                log.info("training runs in %s on %s", "bfloat16" if self.device.bf16 else "float32", self.device.name)
            with task(progress, "float network"):
                pruned = self._pruned(budget, recorder, progress) if self.settings.prune else None
                session = self.session(budget) if pruned is None else pruned.session
                self._session = session
                float_test = self.float_test
            log.info("float network: %.4f on the validation data", session.float_accuracy)
            for caution in cautions(session, budget):
                notes = (*notes, caution)
                log.warning(caution)
            if pruned is not None:
                notes = (*notes, pruned.sentence)
                log.info(notes[-1])
            if session.equalization is not None:
                notes = (*notes, session.equalization.sentence)
                log.info(notes[-1])
            driver = Driver(session, Announced(recorder or NullRecorder(), callbacks), progress, start=start)
            if driver.student.outliers:
                notes = (*notes, _told(driver.student.outliers, self.data.train))
                log.warning(notes[-1])
            state = driver.run()
            control, control_seconds = None, 0.0
            found = Contender.of(session, driver)
            returned, wider = found, None
            if self.settings.control:
                try:
                    control, control_seconds = run_control(session, recorder, progress, state, resume)
                    wider = run_next_wider(session, state)
                except UnreachableBudgetError as error:  # mixed bitwidths may fit where no single one does
                    notes = (*notes, f"there is no uniform control: {error}")
                    log.info(notes[-1])
            uniform = None if control is None else Control(control.plan, control.cost, control.scores)
            if control is not None and uniform is not None:
                verdict = weigh(session, found, control)
                returned = control if verdict.takes_over else found
                for sentence in filter(None, (between(session, uniform, wider), verdict.sentence)):
                    notes = (*notes, sentence)
                    log.info(sentence)
            if sentence := told(self.settings, returned.driver.state):
                notes = (*notes, sentence)
                log.info(sentence)
            discarded = returned.driver.state.discarded_examples
            if discarded:
                seen = returned.driver.state.trained_examples
                thrown = f"training on {discarded:,} examples made the network no better and was thrown away"
                notes = (*notes, f"{thrown}; what is returned has seen {seen:,}")
            harm = session.float_network.harm_at(returned.plan, returned.driver.student.observer)
            if sentence := costly_activations(harm, returned.plan):
                notes = (*notes, sentence)
                log.info(sentence)
            result = _result(session, returned, float_test, notes, recorder)
            result = replace(
                result,
                activation_harm=harm,
                pruning=None if pruned is None else pruned.document,
                seconds=state.seconds + control_seconds,
                control=uniform,
                control_above=wider,
                noise=noise(session, returned, control),
                returned="search" if returned is found else "control",
            )
            if recorder is not None:
                layers = describe_layers(
                    result.network,
                    self.costs if pruned is None else pruned.costs,
                    self.settings.sigma,
                    session.statistics.sensitivity,
                )
                with alone():
                    pictures = self._pictures(session, returned.network)
                write_run(recorder, result, layers, self.environment, pictures)
            for name, excess in result.violations.items():
                log.warning("the budget is not met: %s is off by %.2f %% of its limit", name, 100 * excess)
            if recorder is not None:
                refresh_report(recorder.path)
            call_all(callbacks, {"stage": "result", **result.to_dict()})
            return result

    def session(self, budget: Budget) -> Session:
        """What is measured for a budget before its search; everything but the limits is measured once.

        Raises:
            SigmaQuantError: a budget that cannot be reached, or a float network or data that are broken.
        """
        if self.settings.prune:
            raise SigmaQuantError("a sweep removes no channels, since its runs share one network. Leave prune out.")
        if budget.size_counts != self.costs.size_counts:
            self.costs, self._session = self.costs.counting(budget.size_counts), None
        if self._session is None:
            self._session = Session(
                self.graph,
                self.data,
                budget,
                self.settings,
                self.costs,
                self.task,
                self.device,
                self.statistics,
            )
            return self._session
        return self._session.for_budget(budget)

    def _pruned(self, budget: Budget, recorder: RunDirectory | None, progress: Progress) -> Pruned:
        """The network without the channels that its budget does not need; the whole one is measured once."""
        if self._origin is None:
            self._origin = origin_session(
                self.graph, self.data, self.settings, self.costs, self.task, self.device, self.statistics
            )
        if budget.size_counts != self.costs.size_counts:
            self.costs = self._origin.costs = self.costs.counting(budget.size_counts)
        if world_size() > 1:
            raise DistributedError("channels are removed in one process. Leave devices out, or prune.")
        path = None if recorder is None else recorder.pruning_path
        return prune_and_open(self._model, self._origin, self._profile, budget, self.settings, path, progress)

    def _check_loss(self) -> None:
        """Raise where a loss is needed that the task has not.

        Raises:
            SigmaQuantError: see above.
        """
        if self.settings.trains and self.settings.distill < 1 and not self.task.has_loss:
            raise SigmaQuantError(
                f"the task {self.task.name!r} has no loss, but distill={self.settings.distill:g} asks for one. Give it "
                "one (loss=), or let the network learn from the float network alone (distill=1)."
            )

    def _pictures(self, session: Session, network: nn.Module) -> list[dict[str, Any]]:
        """What the task shows of the test data's first batch, or the validation data's."""
        task = session.task
        if type(task).pictures is Task.pictures:
            return []
        source = self.data.test or self.data.validation
        try:
            inputs, targets = next(source.batches())
            inputs, targets = (first(inputs, _SHOWN), targets[:_SHOWN])
            before, after = (
                outputs_of(one, [(inputs, targets)], task, self.device)[0] for one in (session.teacher, network)
            )
            given = inputs if isinstance(inputs, tuple) else (inputs,)
            return [picture.to_dict() for picture in task.pictures(given, before, after, targets)]
        except Exception as error:  # whatever the user's code does, the run is done
            log.warning("the report shows no examples: %s", error)
            return []

    @property
    def environment(self) -> dict[str, Any]:
        """What the figures of a result depend on besides its configuration."""
        return {
            "sigmaquant": __version__,
            "torch": torch.__version__,
            "device": self.device.name,
            "threads": torch.get_num_threads(),
            "devices": world_size(),
            "bf16": self.settings.trains and self.device.bf16,
        }

    @property
    def float_test(self) -> float | None:
        """The float network's metric on the test data, where there are any."""
        if self.data.test is not None and self.statistics.float_test is None:
            assert self._session is not None, "only asked for in a run"
            self.statistics.float_test = evaluate(
                self._session.teacher, self.data.test.batches(), self._session.task, self.device
            )
        return self.statistics.float_test


def make_settings(settings: Settings | None, options: Mapping[str, Any]) -> Settings:
    """Settings with single fields replaced.

    Raises:
        SigmaQuantError: an unknown field; the near matches are named.
    """
    known = {item.name for item in fields(Settings)}
    for name in options:
        if name not in known:
            raise SigmaQuantError(f"there is no option {name!r}. {near_matches(name, sorted(known))}")
    return replace(settings or Settings(), **options)


def gather_data(
    train: Any, validation: Any, test: Any, settings: Settings, keys: Keys | None = None
) -> tuple[Data, tuple[str, ...]]:
    """The three data sets, and what to tell the user about them; keys as for `as_source`.

    Raises:
        DataError: data are missing, empty or mis-shaped.
    """
    size = settings.batch_size
    source = as_source(train, batch_size=size, name="training data", keys=keys)
    notes: tuple[str, ...] = ()
    if validation is None:
        source, held_out = split(source, fraction=settings.validation_fraction, seed=settings.seed)
        notes = (
            f"no validation data were given: {held_out.examples} training examples were held out for validation, "
            f"{source.examples} are left for training",
        )
    else:
        held_out = as_source(validation, batch_size=size, name="validation data", keys=keys)
    tested = None if test is None else as_source(test, batch_size=size, name="test data", keys=keys)
    return Data(source, held_out, tested), notes


def trace_copy(model: nn.Module, data: Data, device: Device) -> QuantGraph:
    """The graph of a copy of the model, in float32, on the device; the user's model is not touched.

    Raises:
        DataError: the data do not fit the model.
        ModelError: see `sigmaquant.graph.trace`.
    """
    twin, note = read_copy(model).cpu().eval(), precision_note(model)
    example = _fitting_example(twin, data.train, note)
    for source in (data.validation, data.test):
        if source is not None:
            _fitting_example(twin, source, note)
    graph = trace(twin.to(device.name), map_tensors(example, lambda x: x.to(device.name)))
    device.put_module(graph.module)  # its memory format is the program's choice: the model itself may not run in it
    return graph


def _fitting_example(model: nn.Module, data: DataSource, note: str | None) -> Structure:
    """Two examples on the CPU, which the model has been run on."""
    small = map_tensors(data.example_structure(), lambda x: x[:2].cpu())  # the data may lie on another device
    try:
        with torch.no_grad():
            given = read_arguments(model, small)
            model(*given.args, **given.kwargs)
    except Exception as error:
        raise DataError(
            f"the model cannot run on the {data.name}: a batch of {_described(small)} gives "
            f"{type(error).__name__}: {str(error).partition(chr(10))[0]}. "
            f"Check the data's shape, dtype and preprocessing.{f' Mind: {note}.' if note else ''}"
        ) from error
    return small


def _left_out(train: DataSource) -> str | None:
    if not train.left_out:
        return None
    names = ", ".join(map(repr, train.left_out))
    return f"of the {train.name}'s entries, {names} are no arguments of the model and were left out"


def _described(inputs: Structure) -> str:
    if isinstance(inputs, Mapping):
        return ", ".join(f"{key}: {_described(item)}" for key, item in inputs.items())
    return describe_inputs((inputs,)) if isinstance(inputs, Tensor) else ", ".join(map(_described, inputs))


def _told(outliers: int, train: DataSource) -> str:
    return (
        f"{outliers} of the {train.name}'s examples that calibrate ranges and statistics have inputs far beyond those "
        "of all others and were left out; if they are not meant to be so, check the preprocessing"
    )


def _result(
    session: Session,
    found: Contender,
    float_test: float | None,
    notes: tuple[str, ...],
    recorder: RunDirectory | None,
) -> QuantizationResult:
    violations = found.violations(session)
    return QuantizationResult(
        network=found.driver.student.network.eval(),
        plan=found.plan,
        met=not violations,
        violations=violations,
        cost=found.cost,
        reference=session.reference,
        scores=found.scores,
        float_scores=Scores(session.float_accuracy, float_test, 0.0),
        coverage=coverage(session.graph, found.plan),
        float_operators=tuple(place.described for place in session.graph.float_places),
        control=None,
        seconds=found.driver.state.seconds,
        notes=notes,
        run_dir=recorder.path if recorder else None,
        limits=session.limits.to_dict(),
        trained_examples=found.driver.state.trained_examples,
        discarded_examples=found.driver.state.discarded_examples,
        sensitivity_examples=session.statistics.sensitivity_examples,
        sensitivity_agreement=session.statistics.sensitivity_agreement,
    )


def write_run(
    directory: RunDirectory,
    result: QuantizationResult,
    layers: LayersDocument,
    environment: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Plan, checkpoint, layers, pictures and result, in this order: a result exists only when everything else does.

    Raises:
        StorageError: the disk is full.
    """
    directory.write_plan(result.plan)
    metadata = {
        "format": "sigmaquant.checkpoint",
        "version": "1",
        "model": result.plan.model,
        "plan": result.plan.to_json(),
    }
    digest = directory.write_checkpoint(result.network.state(), metadata)
    directory.write_layers(layers.to_dict())
    directory.write_pictures(pictures)
    directory.write_result({**environment, "checkpoint_sha256": digest, **result.to_dict()})
