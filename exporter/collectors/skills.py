"""Skills of the default agent by what becomes of them (`skills.status`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from exporter.collectors.poll import PollCollector
from lobservatory.metrics.exposition import Sample
from lobservatory.metrics.labels import SKILL_STATES
from openclaw.client import GatewayClient
from openclaw.fields import items


def state_of(skill: Mapping[str, Any]) -> str:
    """`ready`, or the first reason why it is not: `disabled`, `blocked` (an allow list), `missing` (a requirement)."""
    if skill.get("disabled") is True:
        return "disabled"
    if skill.get("blockedByAllowlist") is True or skill.get("blockedByAgentFilter") is True:
        return "blocked"
    return "ready" if skill.get("eligible") is True else "missing"


def samples(gateway: str, answer: Any) -> Iterable[Sample]:
    """How many there are of each state."""
    counts = Counter(state_of(skill) for skill in items(answer, "skills"))
    for state in SKILL_STATES:
        yield Sample("claw_skills", (gateway, state), counts[state])


def collector(gateway: str, client: GatewayClient, interval: float) -> PollCollector:
    """Asked seldom: the gateway looks for every program that a skill needs."""
    return PollCollector("skills", gateway, client, "skills.status", samples, interval=interval)
