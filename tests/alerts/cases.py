"""Makes promtool tests of every alert in every case from `alerts/cases.yml`.

    make cases

One test for all alerts of a file and pace; every case is a gateway of its own, so that a wrong join between gateways
shows as well. Expected of ALERTS are exactly these gateways, each with exactly one alert of these labels.

Cases of a rule:

  plain              silent before, firing, silent after; the threshold is exported with its default
  absent             no series but the threshold: silent
  missed scrape      firing, everything is gone for one sample, still firing
  two exporters      the same from two instances: the same single alert
  nearly             just not enough, from two exporters at once: silent
  gateway restart    the gateway is away for one sample while all is well (silent) and while it is bad (fires after)
  counter reset      counters begin at 0 again while all is well (silent) and while it is bad (fires at its end)
  low traffic        as bad, but hardly any traffic, from two exporters at once: silent
  missing threshold  nobody exports one: the default holds
  override           a patient threshold, of the gateway: silent
  two thresholds     the default and a patient one, from two exporters: the greater holds
  agent's override   a patient threshold of the agent alone: silent
  eager              a threshold at which the usual is bad: fires before
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import yaml

from lobservatory.thresholds import THRESHOLDS
from tests.tools import REPOSITORY

SOURCE = REPOSITORY / "alerts" / "cases.yml"
TARGET = REPOSITORY / "alerts" / "tests"
HEAD = "# Made from alerts/cases.yml by `make cases`; each case is a gateway. Do not edit.\n"
UNITS = {"s": 1, "m": 60, "h": 3600}
WELL, BAD, NEARLY, LITTLE = range(4)
TRAFFIC = re.compile(r"claw_(?:model_calls|tool_calls|tokens|rejected|unpriced|model_call_duration)\w*")
COUNTER = re.compile(r"\w+_(?:total|bucket|count|sum)\b")
CASES = (
    "plain",
    "absent",
    "missed scrape",
    "two exporters",
    "nearly",
    "gateway restart",
    "counter reset",
    "low traffic",
    "missing threshold",
    "override",
    "two thresholds",
    "agent's override",
    "eager",
)

NUMBERS: dict[str, Callable[[Any], Any]] = {
    "steps": int,
    "look": int,
    "patient": float,
    "eager": float,
    "thresholds": lambda given: {key: float(value) for key, value in given.items()},
}

Sample = Decimal | str  # a value, "stale" or "_"


def rules() -> dict[tuple[str, str], tuple[Path, dict[str, Any]]]:
    """(alert, severity) → its file and itself."""
    found = {}
    for path in sorted((REPOSITORY / "alerts" / "rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    found[rule["alert"], rule["labels"]["severity"]] = path, rule
    return found


@dataclass(frozen=True)
class Trial:
    """One entry of `alerts/cases.yml`."""

    alert: str
    severity: str
    series: dict[str, Any]
    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    step: str = "1m"
    steps: int = 90
    look: int = 0
    patient: float | None = None
    eager: float | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return " ".join(part for part in (self.alert, self.severity, self.name) if part)

    @property
    def seconds(self) -> int:
        return int(self.step[:-1]) * UNITS[self.step[-1]]

    @property
    def looked(self) -> int:
        """The sample of the bad phase at which it must fire."""
        return self.steps + (self.look or self.steps - 1)

    def value(self, series: str, which: int) -> str:
        """What is written for a phase; without a value of its own, the well one."""
        given = self.series[series]
        values = given if isinstance(given, list) else [given]
        return str(values[which] if which < len(values) else values[0])

    def reasons(self, rule: dict[str, Any]) -> dict[str, str]:
        """Case → why there is none: said, or plain from the expression."""
        expression = rule["expr"]
        absent = dict(self.without)
        own = any((one.alert, one.severity) == (self.alert, self.severity) for one in THRESHOLDS)
        if "claw_alert_threshold" not in expression or not own:
            for case in ("missing threshold", "override", "eager"):
                absent.setdefault(case, "the rule has no threshold")
        if not COUNTER.search(expression):
            absent.setdefault("counter reset", "the rule has no counter")
        if not TRAFFIC.search(expression):
            absent.setdefault("low traffic", "the rule counts no traffic")
        if all(not isinstance(values, list) or len(values) <= NEARLY for values in self.series.values()):
            two_states = {"0", "1"} >= {self.value(name, which) for name in self.series for which in (WELL, BAD)}
            if two_states:
                absent.setdefault("nearly", "it knows two states only")
        if "override" in absent:
            absent.setdefault("two thresholds", absent["override"])
        if "override" in absent or "agent" not in self.labels or f'"{self.severity}",agent!=""' not in expression:
            absent.setdefault("agent's override", "the rule has no thresholds of agents")
        return absent


def trials() -> list[Trial]:
    """All of the file. Every value is text there, because YAML would take +1 for 1."""
    entries = yaml.load(SOURCE.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    return [Trial(**{key: NUMBERS.get(key, _same)(value) for key, value in entry.items()}) for entry in entries]


def _same(value: Any) -> Any:
    return value


def samples(trial: Trial, series: str, middle: int) -> list[Sample]:
    """The three phases; `middle`: BAD, NEARLY or LITTLE."""
    found: list[Sample] = []
    last = Decimal(0)
    for number, which in enumerate((WELL, middle, WELL)):
        text = trial.value(series, which)
        begin = number * trial.steps
        for index in range(begin, begin + trial.steps):
            at = Decimal(index * trial.seconds)
            if text.startswith("+"):
                last += Decimal(text[1:]) if found else 0
            elif text.startswith("now"):
                last = at + Decimal(text[3:] or 0)
            elif text.startswith("then"):
                last = Decimal(begin * trial.seconds) + Decimal(text[4:] or 0)
            else:
                last = Decimal(text)
            found.append(last)
    return found


def without(values: list[Sample], index: int) -> list[Sample]:
    """Gone for one sample."""
    return [*values[:index], "stale", *values[index + 1 :]]


def begun_anew(values: list[Sample], index: int) -> list[Sample]:
    """A counter that begins at 0 there."""
    base = values[index]
    return [
        value - base if number >= index and isinstance(value, Decimal) and isinstance(base, Decimal) else value
        for number, value in enumerate(values)
    ]


def notation(values: list[Sample]) -> str:
    """As promtool wants it, in straight lines."""
    parts = []
    index = 0
    while index < len(values):
        value = values[index]
        count = 1
        if isinstance(value, str):
            parts.append(value)
        else:
            following = values[index + 1] if index + 1 < len(values) else None
            slope = following - value if isinstance(following, Decimal) else Decimal(0)
            while index + count < len(values):
                candidate = values[index + count]
                if not isinstance(candidate, Decimal) or candidate != value + slope * count:
                    break
                count += 1
            begin = f"{value.normalize():f}"
            parts.append(begin if count == 1 else f"{begin}{slope.normalize():+f}x{count - 1}")
        index += count
    return " ".join(parts)


def selector(series: str, gateway: str, **labels: str) -> str:
    """`name{a="b"}` with the gateway, and more."""
    name, inner = series.rstrip("}").split("{")
    more = [f'{key}="{value}"' for key, value in {"gateway": gateway, **labels}.items()]
    return f"{name}{{{','.join([*more, *([inner] if inner else [])])}}}"


Plan = dict[int, bool]  # sample → whether it fires then
Change = Callable[[str, list[Sample]], list[Sample]]
TWO = ("a:1", "b:1")


class Made:
    """The series of one trial's cases, and when which of them must fire."""

    def __init__(self, trial: Trial, rule: dict[str, Any]) -> None:
        self.trial = trial
        self.series: list[tuple[str, str]] = []
        self.plans: dict[str, Plan] = {}  # by gateway
        self._absent = trial.reasons(rule)
        own = next((one for one in THRESHOLDS if (one.alert, one.severity) == (trial.alert, trial.severity)), None)
        given = {tuple(key.split(" ")): value for key, value in trial.thresholds.items()}
        self._others = {key: value for key, value in given.items() if key[0] != trial.severity}
        mine = [(key, value) for key, value in given.items() if key[0] == trial.severity]
        self._default = mine[0][1] if mine else own.default if own else None
        self._agent = mine[0][0][1] if mine and len(mine[0][0]) > 1 else ""
        self._end_well, self._end = trial.steps - 1, 3 * trial.steps - 1
        self._restarts = (trial.steps // 2, trial.steps + (trial.looked - trial.steps) // 4)
        self._usual = self._plan(firing=True)
        self._states()
        self._disturbances()
        self._thresholds()

    @property
    def cases(self) -> set[str]:
        return {gateway.partition(": ")[2] for gateway in self.plans}

    def checks(self) -> Iterator[tuple[int, list[str], list[str]]]:
        """(sample, gateways that are looked at, those of them that must fire)."""
        for at in sorted({at for plan in self.plans.values() for at in plan}):
            looked = [gateway for gateway, plan in self.plans.items() if at in plan]
            yield at, looked, [gateway for gateway in looked if self.plans[gateway][at]]

    def _plan(self, *, firing: bool) -> Plan:
        return {self._end_well: False, self.trial.looked: firing, self._end: False}

    def _states(self) -> None:
        silent = self._plan(firing=False)
        self._add("plain", self._usual)
        self._add("absent", silent, data=False)
        self._add("two exporters", self._usual, instances=TWO)
        self._add("nearly", silent, middle=NEARLY, instances=TWO)
        self._add("low traffic", silent, middle=LITTLE, instances=TWO)

    def _disturbances(self) -> None:
        gap = self.trial.looked
        self._add("missed scrape", {gap - 1: True, gap: True}, change=lambda _, values: without(values, gap))
        around = dict.fromkeys((self._restarts[0] + more for more in (0, 1, 2, 4)), False)
        self._add("gateway restart", {**around, **self._usual}, change=self._restarted)
        self._add("counter reset", {**around, **self._usual}, change=self._reset)

    def _restarted(self, series: str, values: list[Sample]) -> list[Sample]:
        if series.startswith(("claw_host_", "lobservatory_", "up{")):
            return values
        for index in self._restarts:
            if series.startswith("claw_gateway_up"):
                values = [*values[:index], Decimal(0), *values[index + 1 :]]
            else:
                values = without(values, index)
        return values

    def _reset(self, series: str, values: list[Sample]) -> list[Sample]:
        for index in self._restarts if COUNTER.match(series) else ():
            values = begun_anew(values, index)
        return values

    def _thresholds(self) -> None:
        trial = self.trial
        self._add("missing threshold", self._usual, value=None)
        if trial.patient is not None:
            silent = self._plan(firing=False)
            self._add("override", silent, value=trial.patient)
            # The greater one holds, whichever way the rule compares.
            holds = self._plan(firing=trial.patient < (self._default or 0))
            if gateway := self._add("two thresholds", holds, value=None):
                for instance, value in zip(TWO, (self._default, trial.patient), strict=True):
                    self._threshold(gateway, value or 0, trial.severity, self._agent, instance=instance)
            if gateway := self._add("agent's override", silent):
                self._threshold(gateway, trial.patient, trial.severity, trial.labels["agent"])
        if trial.eager is not None:
            self._add("eager", {self._end_well: True}, value=trial.eager)

    def _threshold(self, gateway: str, value: float, severity: str, agent: str = "", **labels: str) -> None:
        who = {"agent": agent} if agent else {}
        series = f'claw_alert_threshold{{alert="{self.trial.alert}",severity="{severity}"}}'
        self.series.append((selector(series, gateway, **who, **labels), f"{value:g}x{self._end + 1}"))

    def _add(
        self,
        case: str,
        plan: Plan,
        *,
        middle: int = BAD,
        value: float | Literal["default"] | None = "default",
        instances: tuple[str, ...] = ("",),
        change: Change = lambda _, values: values,
        data: bool = True,
    ) -> str:
        """The case's gateway; "" when the rule has no such case."""
        if case in self._absent:
            return ""
        gateway = f"{self.trial.title}: {case}"
        for key, other in self._others.items():
            self._threshold(gateway, other, *key)
        exported = self._default if value == "default" else value
        if exported is not None:
            self._threshold(gateway, exported, self.trial.severity, self._agent)
        for series in self.trial.series if data else ():
            values = notation(change(series, samples(self.trial, series, middle)))
            for instance in instances:
                labels = {"instance": instance} if instance else {}
                self.series.append((selector(series, gateway, **labels), values))
        self.plans[gateway] = plan
        return gateway


def pages() -> dict[str, str]:
    """File name → content: one file for each file of rules and pace, so that each rule is tried with its own only."""
    known = rules()
    made: dict[tuple[str, str], list[tuple[Trial, Made]]] = {}
    for trial in trials():
        path, rule = known[trial.alert, trial.severity]
        entries = made.setdefault((path.stem, trial.step), [])
        entries.append((trial, Made(trial, rule)))
        if len({one.steps for one, _ in entries}) > 1:
            raise ValueError(f"{trial.title}: all trials of {path.name} with step {trial.step} need the same steps")
    return {
        f"cases_{name.removeprefix('lobs-')}_{step}_test.yml": "\n".join(page(name, step, entries)) + "\n"
        for (name, step), entries in made.items()
    }


def page(name: str, step: str, entries: list[tuple[Trial, Made]]) -> Iterator[str]:
    """The lines of one file."""
    yield f"{HEAD}rule_files: [../rules/{name}.yml]"
    yield from (f"evaluation_interval: {step}", "tests:", f"  - interval: {step}", "    input_series:")
    for trial, one in entries:
        yield f"      # {trial.title}"
        for series, values in one.series:
            yield f"      - {{series: '{quoted(series)}', values: '{values}'}}"
    yield "    promql_expr_test:"
    for trial, one in entries:
        by = ", ".join(["gateway", *trial.labels])
        for at, looked, firing in one.checks():
            which = quoted("|".join(gateway.partition(": ")[2] for gateway in looked))
            yield (
                f'      - expr: \'count by ({by}) (ALERTS{{alertname="{trial.alert}",severity="{trial.severity}",'
                f'alertstate="firing",gateway=~"{trial.title}: ({which})"}})\''
            )
            yield f"        eval_time: {at * trial.seconds}s"
            yield f"        exp_samples:{'' if firing else ' []'}"
            for gateway in firing:
                yield f"          - {{labels: '{quoted(selector('{}', gateway, **trial.labels))}', value: 1}}"


def quoted(text: str) -> str:
    """Inside single quotes of YAML."""
    return text.replace("'", "''")


def main() -> int:
    """Write the files."""
    made = pages()
    for path in TARGET.glob("cases_*_test.yml"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        Path(TARGET / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
