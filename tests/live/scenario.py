"""What the live tests let a gateway do: turns, tools, a sub-agent, a second model, an abort, cron jobs, a webhook."""

import asyncio
from dataclasses import dataclass, field

from tests.servers import PATIENCE_SECONDS


@dataclass
class Story:
    """What happened, for assertions."""

    failing_job: str = ""
    working_job: str = ""
    turns: int = 0
    refused: list = field(default_factory=list)


async def idle(driver):
    """Wait for the end of what the gateway does by itself: a parent's turn after its sub-agent, for example."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await active(driver):  # noqa: ASYNC110 - only the list knows of all runs, and it has no event
            await asyncio.sleep(0.5)


async def active(driver):
    """Whether any session has a run at work."""
    listed = await driver.call("sessions.list")
    return any(session.get("hasActiveRun") for session in listed["payload"]["sessions"])


async def play(gateway):
    """About half a minute on a ready gateway. Returns a Story."""
    story = Story()
    async with gateway.driver() as driver:

        async def turn(message, key="agent:main:main"):
            answer = await driver.turn(message, key)
            story.turns += 1
            if not answer.get("ok"):
                story.refused.append((message, answer))

        await turn("Say hello")
        await turn("Run a command [[exec echo hello]]")
        await turn("Run a failing command [[exec sh -c 'echo boom >&2; exit 3']]")
        await turn("Read a file that is not there [[read missing-file.txt]]")
        mark = len(driver.events)
        await turn("Delegate this [[spawn say hi from the sub-agent]]")
        await driver.event(
            "agent",
            lambda p: ":subagent:" in str(p.get("sessionKey")) and (p.get("data") or {}).get("phase") == "end",
            since=mark,
        )
        await driver.call("sessions.create", {"key": "agent:main:dashboard:switched", "label": "switched"})
        await driver.call("sessions.patch", {"key": "agent:main:dashboard:switched", "model": "fake/fake-mini"})
        await turn("On the second model", "agent:main:dashboard:switched")
        await turn("Hello guarded", "agent:guarded:main")
        await turn("To be deleted", "agent:main:dashboard:deleted")
        await driver.call("sessions.delete", {"key": "agent:main:dashboard:deleted", "deleteTranscript": True})
        story.working_job = await driver.cron("nightly report", "Report [[exec echo cron]]")
        story.failing_job = await driver.cron("failing job", "Fail [[err 404]]")
        mark = len(driver.events)
        await asyncio.to_thread(gateway.hook, message="From outside", name="Live", agentId="main", deliver=False)
        # Its run has an id of its own and the key of a job that does not exist.
        jobs = (story.working_job, story.failing_job)
        await driver.event(
            "agent",
            lambda p: (
                (p.get("data") or {}).get("phase") == "end"
                and ":cron:" in str(p.get("sessionKey"))
                and not any(job in p["sessionKey"] for job in jobs)
            ),
            since=mark,
        )
        await idle(driver)
    return story
