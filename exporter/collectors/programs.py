"""Runs a program of the host with a fixed command line and a hard limit. No shell, no input, little output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Sequence

from lobservatory.errors import LobservatoryError

MAX_OUTPUT = 256 << 10
_READ = 1 << 16
_REAP = 0.5  # seconds for a killed program to be gone
_PASSED_ON = ("PATH", "HOME", "USER", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "LD_LIBRARY_PATH")


class ProgramError(LobservatoryError):
    """The program is of no use now. One line: which, and why."""


class ProgramMissingError(ProgramError):
    """There is no such program here."""


class ProgramHangsError(ProgramError):
    """It did not end in time and was killed."""


class ProgramFailedError(ProgramError):
    """It ended with an error."""


class Program:
    """One program, at most one at a time: one that cannot even be killed (a driver that hangs) is not started again
    beside itself."""

    def __init__(self, name: str, limit: float, most: int = MAX_OUTPUT) -> None:
        self.name = name
        self._limit = limit
        self._most = most
        self._running: asyncio.subprocess.Process | None = None

    async def run(self, arguments: Sequence[str], *, cut: bool = False) -> str:
        """What it prints. Raises ProgramError. `cut`: of a program that prints more than `most` bytes, the first of
        them; else that is an error."""
        path = shutil.which(self.name)
        if path is None:
            raise ProgramMissingError(f"{self.name} is not on PATH")
        if self._running is not None and self._running.returncode is None:
            raise ProgramHangsError(f"{self.name}: the last one was killed and is not gone yet")
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"LC_ALL": "C"}
        try:
            process = await asyncio.create_subprocess_exec(
                path,
                *arguments,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # killed with whatever it started
            )
        except OSError as error:
            raise ProgramFailedError(f"{self.name} cannot be started: {error.strerror}") from error
        self._running = process
        try:
            async with asyncio.timeout(self._limit):
                output = await self._read(process, cut=cut)
                status = 0 if len(output) > self._most else await process.wait()
        except TimeoutError:
            raise ProgramHangsError(f"{self.name} did not end within {self._limit:g} s and was killed") from None
        finally:
            if process.returncode is None:
                await _kill(process)
            # What was not read keeps the pipe open for ever, and asyncio has no public way to close it.
            process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001
        if status:
            raise ProgramFailedError(f"{self.name} ended with status {status}")
        return output.decode(errors="replace")

    async def _read(self, process: asyncio.subprocess.Process, *, cut: bool) -> bytes:
        output = b""
        while process.stdout is not None and len(output) <= self._most:
            part = await process.stdout.read(_READ)
            if not part:
                return output
            output += part
        if cut:
            return output
        raise ProgramFailedError(f"{self.name} printed more than {self._most >> 10} KiB")


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_REAP):
            await process.wait()
