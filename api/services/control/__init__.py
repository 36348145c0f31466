"""What may be changed of one gateway, a module a subject. Every change is a command: see `api.services.commands`.

Texts (files, messages, values of the configuration) go to the gateway and nowhere else: the audit log has names, sizes
and paths.
"""

from __future__ import annotations

from dataclasses import dataclass

from api.services.commands import Commands
from api.services.confirmations import Confirmations
from api.services.control.agents import AgentSetup
from api.services.control.approvals import Approvals
from api.services.control.channels import Channels
from api.services.control.configuration import Configuration
from api.services.control.files import AgentFiles
from api.services.control.jobs import Jobs
from api.services.control.process import GatewayProcess
from api.services.control.sessions import Sessions
from api.services.control.skills import Skills
from api.services.control.turns import Turns
from store.pool import Pool


@dataclass(frozen=True, slots=True)
class Control:
    """The subjects, by name."""

    confirmations: Confirmations
    agents: AgentSetup
    files: AgentFiles
    sessions: Sessions
    jobs: Jobs
    approvals: Approvals
    skills: Skills
    configuration: Configuration
    channels: Channels
    process: GatewayProcess

    @classmethod
    def of(cls, pool: Pool, commands: Commands, service: str = "") -> Control:
        """`service`: the gateway's name for the service manager, "" where it has none."""
        confirmations = Confirmations(pool, commands)
        turns = Turns(pool, commands.gateway)
        return cls(
            confirmations=confirmations,
            agents=AgentSetup(commands, confirmations, turns),
            files=AgentFiles(commands, turns),
            sessions=Sessions(commands, confirmations),
            jobs=Jobs(commands, turns),
            approvals=Approvals(commands, confirmations, turns),
            skills=Skills(commands, confirmations),
            configuration=Configuration(commands, confirmations, turns),
            channels=Channels(commands, confirmations),
            process=GatewayProcess(commands, confirmations, service),
        )
