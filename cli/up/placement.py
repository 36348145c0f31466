"""Where each part of one run is: an address of its own, a running server of yours, or nowhere.

The exporter and the API have the addresses that the settings say, because other programs were told these. Prometheus,
Alertmanager and Grafana are optional: a port that is taken there must not keep the rest from starting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.up import parts
from lobservatory.settings import PARTS, Listen, Part, Settings


@dataclass
class Placement:
    """What was decided, and the settings that say so."""

    settings: Settings
    addresses: dict[str, Listen] = field(default_factory=dict)  # of what this run starts
    yours: dict[Part, str] = field(default_factory=dict)  # the address of a running one, which is used instead
    off: tuple[Part, ...] = ()  # as LOBS_WITHOUT says
    missing: tuple[Part, ...] = ()  # no program was found
    moved: dict[Part, str] = field(default_factory=dict)  # why it is not where the settings say

    @property
    def urls(self) -> dict[Part, str]:
        """Where our programs find the three."""
        found = {part: parts.program_url(part, self.settings, self.addresses) for part in PARTS}
        return {part: url for part, url in found.items() if url}


def place(settings: Settings, found: Mapping[Part, Path | None]) -> Placement:
    """Decide. `found`: the programs of this machine. Raises UserError."""
    made = Placement(settings, off=settings.without)
    configured = parts.configured(settings)
    for name in ("exporter", "api"):
        variable, listen = configured[name]
        made.addresses[name] = parts.concrete(listen)
        parts.check_free(made.addresses[name], variable)
    wanted = {listen.port for _, listen in configured.values()}
    missing = []
    for part in PARTS:
        if part in settings.without:
            continue
        url = getattr(settings, f"{part}_url")
        # Without a program of its own, links to the named address are what was wished for, also while it is away.
        if url and (found[part] is None or parts.is_part(part, url)):
            made.yours[part] = url
        elif found[part] is None:
            missing.append(part)
        else:
            variable, listen = configured[part]
            listen = parts.concrete(listen)
            unwanted = wanted | {other.port for other in made.addresses.values()}
            made.addresses[part] = parts.next_free(listen, variable, unwanted)
            if made.addresses[part] != listen:
                made.moved[part] = parts.taken(part, listen)
    made.missing = tuple(missing)
    names = {"exporter": "metrics_listen", **{name: f"{name}_listen" for name in ("api", *PARTS)}}
    decided: dict[str, Any] = {names[name]: listen for name, listen in made.addresses.items()}
    made.settings = settings.model_copy(update={**decided, "without": (*made.off, *made.missing)})
    return made
