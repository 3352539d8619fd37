"""The uniform control of a run: trained and measured like it, compared with it, and returned where it is better."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace

from torch import nn

from sigmaquant.budget import Cost
from sigmaquant.data import DataSource
from sigmaquant.errors import SigmaQuantError
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs import NullProgress, Progress, RunDirectory, RunFiles, task
from sigmaquant.search.driver import Driver
from sigmaquant.search.feasibility import format_cost
from sigmaquant.search.search_state import NullRecorder, Recorder
from sigmaquant.search.session import Session
from sigmaquant.search.state import Progression
from sigmaquant.search.uniform import widest
from sigmaquant.training.metrics import evaluate, outputs_of
from sigmaquant.workflow.results import Control, Scores


@dataclass(frozen=True)
class Contender:
    """A network at the end of its run.

    Attributes:
        driver: what made it.
        plan: its bitwidths.
        cost: of its own integer codes, where digits count.
        scores: on all validation data, and the test data.
    """

    driver: Driver
    plan: BitwidthPlan
    cost: Cost
    scores: Scores

    @classmethod
    def of(cls, session: Session, driver: Driver) -> Contender:
        """Measure what a driver has ended with."""
        plan = session.plan(driver.state.weights)
        network = driver.student.network
        cost = session.costs.cost(plan, {name: network.codes(name) for name in network.graph.layer})
        judgement, test = session.judge(network), session.data.test
        tested = None if test is None else evaluate(network, test.batches(), session.task, session.device)
        return cls(driver, plan, cost, Scores(judgement.accuracy, tested, judgement.divergence))

    @property
    def network(self) -> nn.Module:
        """The network."""
        return self.driver.student.network

    def violations(self, session: Session) -> dict[str, float]:
        """What it breaks of the budget."""
        return session.limits.violations(self.cost, self.scores.validation)


@dataclass(frozen=True)
class Verdict:
    """What a comparison with the control comes to.

    Attributes:
        takes_over: whether the control is returned.
        sentence: for the user; ``""``: nothing to say.
    """

    takes_over: bool
    sentence: str


def run_control(
    session: Session, recorder: RunDirectory | None, progress: Progress, searched: Progression, resume: bool
) -> tuple[Contender, float]:
    """The largest uniform plan that fits, trained for as many examples as the search and its final training.

    Where no cost is limited, it has to fit into the size of what the search found, see `Session.for_control`.

    Returns:
        The control, and its seconds.

    Raises:
        UnreachableBudgetError: no single bitwidth fits.
    """
    twin, extra_examples = session.for_control(searched.weights), searched.search_examples
    with contextlib.ExitStack() as stack:
        inner: Recorder = NullRecorder()
        if recorder is not None:
            settings, limits = twin.settings.to_dict(), dict(twin.limits.upper)
            own = {"settings": settings, "extra_examples": extra_examples, "limits": limits}
            config = {**recorder.read_config(), **own}
            path = recorder.control_path
            begun = resume and RunFiles(path).is_of(config)  # else it is of a run that has been overwritten
            inner = stack.enter_context(
                RunDirectory(path, config=config, resume=begun, overwrite=path.exists() and not begun)
            )
        with task(progress, "uniform control"):
            driver = Driver(twin, inner, progress, extra_examples)
            state = driver.run()
        return Contender.of(session, driver), state.seconds


def run_next_wider(session: Session, searched: Progression) -> Control | None:
    """The uniform plan one bitwidth above the control: the budget excludes it, and the result lies between the two.

    Measured where nothing is trained; else only its costs are known. None where there is no wider one.
    """
    twin = session.for_control(searched.weights)
    target = widest(twin.problem) + 1
    if target > max(twin.settings.bitwidths):
        return None
    wider = twin.without_limits(target)
    if wider.settings.trains:
        plan = session.plan(wider.uniform_bits(target))
        return Control(plan, session.costs.cost(plan), Scores(None))
    driver = Driver(wider, NullRecorder(), NullProgress())
    driver.run()
    found = Contender.of(session, driver)
    return Control(found.plan, found.cost, found.scores)


def between(session: Session, control: Control, wider: Control | None) -> str:
    """Which uniform plans lie on both sides of the budget, in a sentence."""
    resource = session.limits.binding(control.cost) or "size_bytes"
    counts = session.limits.size_counts

    def said(one: Control) -> str:
        cost = one.cost.resource(resource, counts)
        score = "" if one.scores.validation is None else f", validation {one.scores.validation:.4f}"
        return f"{_bits(one.plan)} ({'' if cost is None else format_cost(resource, cost)}{score})"

    if wider is None:
        return f"the uniform control has {said(control)}"
    return f"the uniform plans next to the budget have {said(control)} and, beyond it, {said(wider)}"


def weigh(session: Session, found: Contender, control: Contender) -> Verdict:
    """Whether the control is the better result, or as good and no larger.

    Untrained networks whose objective is accuracy are compared by the divergence of their outputs, all others by the
    metric, where it is better by more than its paired standard error.

    Args:
        session: of the search.
        found: what the search has ended with.
        control: trained for as many examples.
    """
    mine, theirs = found.violations(session), control.violations(session)
    same = dict(found.plan.weights) == dict(control.plan.weights)
    if (theirs and not (mine and sum(theirs.values()) < sum(mine.values()))) or same:
        return Verdict(False, "")
    difference = (control.scores.validation or 0.0) - (found.scores.validation or 0.0)
    error = paired_error(session, found.network, control.network)
    no_larger = _no_larger(session, control.cost, found.cost)
    untrained = not found.driver.state.trained_examples and not control.driver.state.trained_examples
    if session.objective == "smallest" and not mine:
        better = False  # the search has gone further down for it
    elif session.objective == "accurate" and untrained and not mine:
        mine_moved, theirs_moved = found.scores.divergence, control.scores.divergence
        assert mine_moved is not None, "judged"
        assert theirs_moved is not None, "judged"
        better = theirs_moved < mine_moved and difference >= -error
    else:
        better = difference > error or bool(mine)
    as_good = no_larger and difference >= -2 * error
    figures = (
        f"the uniform control ({_bits(control.plan)} everywhere) has {control.scores.validation:.4f} on the validation "
        f"data, the searched network {found.scores.validation:.4f}, at a paired standard error of {error:.4f}"
    )
    try:
        session.problem.key(control.plan.weights)
        allowed = True
    except SigmaQuantError:
        allowed = False  # between the allowed bitwidths
    if session.settings.accept_control and (as_good or better):
        return Verdict(True, f"{figures}: it is as good, and is returned")
    if better and allowed:
        return Verdict(True, f"{figures}: it is the better one, and is returned")
    how = "accept_control or --accept-control returns it"
    if better:
        return Verdict(False, f"{figures}: it is the better one, at bitwidths that were not allowed; {how}")
    return Verdict(False, f"{figures}: it is as good within noise and no larger; {how}" if as_good else "")


def noise(session: Session, returned: Contender, control: Contender | None) -> dict[str, float]:
    """Standard errors of the differences to the float network and to the control, see `QuantizationResult.noise`."""
    found = {"float": paired_error(session, returned.network, session.teacher, session.data.test)}
    if control is not None and control is not returned:
        found["control"] = paired_error(session, returned.network, control.network, session.data.test)
    return found


def paired_error(session: Session, one: nn.Module, other: nn.Module, source: DataSource | None = None) -> float:
    """Standard error of the difference of two networks' metrics; 0 where it is not known.

    Where the metric is a mean of the examples' scores (`Task.each`), that of their differences. Of another share of the
    examples it is bounded by that of two independent ones.

    Args:
        session: has the data.
        one, other: the networks.
        source: on what; None: the validation data.
    """
    source = session.judge.source if source is None else source
    scores = []
    for network in (one, other):
        outputs, targets = outputs_of(network, source.batches(), session.task, session.device)
        each = session.task.each(outputs, targets)
        if each is None:
            accuracy = session.judge(one).accuracy
            return math.sqrt(2) * session.judge.standard_error(accuracy)
        scores.append(each.double())
    difference = scores[0] - scores[1]
    return float(difference.std(correction=0)) / math.sqrt(len(difference))


def _no_larger(session: Session, one: Cost, other: Cost) -> bool:
    limits = replace(session.limits, upper={**dict.fromkeys(session.limits.upper, 1.0)})
    mine, theirs = limits.ratios(one), limits.ratios(other)
    return one.total_bytes <= other.total_bytes and all(mine[name] <= theirs[name] for name in mine)


def _bits(plan: BitwidthPlan) -> str:
    return "/".join(str(bits) for bits in sorted(set(plan.weights.values()))) + " bits"
