"""A cold process reads a whole state directory to correct totals, beside `wc -l` and, where npm has them, the peers.

Interleaved rounds, medians, CPU seconds of the process tree (user + system). What counts is the ratio within one run.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks import corpus

ROUNDS = 3
_PEER_DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class Measure:
    """One cold run: seconds and MB."""

    wall: float
    cpu: float
    rss_mb: float


def measure(command: list[str], **environment: str) -> Measure:
    """Run a command to its end in a measuring parent of its own, so that only its tree is counted."""
    code = (
        "import json, resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "wall = time.perf_counter() - start\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *command],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=600,
    )
    return Measure(*json.loads(done.stdout))


def check(state: Path, command: list[str]) -> None:
    """Totals must be right before they may be fast. Raises AssertionError."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    answer = json.loads(done.stdout, parse_float=Decimal)
    truth = {key: Decimal(value) for key, value in json.loads((state / "truth.json").read_text()).items()}
    assert answer["calls"] == truth["calls"]
    assert answer["cost_usd"]["billed"] == truth["cost"]
    assert sum(tool["calls"] for tool in answer["tools"].values()) == truth["tool_calls"]
    assert sum(tool["errors"] for tool in answer["tools"].values()) == truth["tool_errors"]
    for key in ("input", "output", "cache_read", "cache_write"):
        assert answer["tokens"][key] == truth[key]


def _peers(folder: Path) -> dict[str, list[str]]:
    """Commands of the peers, installed by npm into our cache: each with its native program for this machine."""
    system = platform.system().lower()
    processor = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    tokscale = f"@tokscale/cli-{system}-{processor}" + ("-gnu" if system == "linux" else "")
    packages = ("ccusage@20", f"@ccusage/ccusage-{system}-{processor}@20", f"{tokscale}@4")
    modules = folder / "node_modules"
    programs = {
        "ccusage": [str(modules / ".bin" / "ccusage"), "openclaw", "daily", "--offline", "--json"],
        "tokscale": [str(modules / tokscale / "bin" / "tokscale"), "models", "-c", "openclaw", "--json"],
    }
    if not all(Path(command[0]).exists() for command in programs.values()) and shutil.which("npm"):
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), *packages]
        with contextlib.suppress(subprocess.SubprocessError, OSError):  # no network: measured without them
            subprocess.run(command, check=True, capture_output=True, timeout=_PEER_DEADLINE)
    return {name: command for name, command in programs.items() if Path(command[0]).exists()}


def contenders(cache: Path, store: str, state: Path, *, peers: bool) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Name to command and environment."""
    scan = [str(Path(sys.executable).parent / "lobservatory"), "scan", str(state), "--json"]
    found: dict[str, tuple[list[str], dict[str, str]]] = {"lobservatory": (scan, {})}
    if store == "jsonl":
        files = sorted(str(path) for path in (state / "agents/main/sessions").glob("*.jsonl"))
        found["wc -l"] = (["wc", "-l", *files], {})
    if peers:
        home = state.parent / f"home-{state.name}"
        home.mkdir(exist_ok=True)
        if not (home / ".openclaw").exists():
            (home / ".openclaw").symlink_to(state)
        for name, command in _peers(cache / "peers").items():
            if store == "jsonl" or name == "tokscale":  # ccusage does not read the database
                found[name] = (command, {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")})
    return found


def run(cache: Path, store: str, size: int, *, peers: bool) -> dict[str, Any]:
    """Measure one store; medians by contender, those that fail left out with their reason."""
    state = corpus.make(cache / "corpus", store, size)
    commands = contenders(cache, store, state, peers=peers)
    check(state, commands["lobservatory"][0])
    rounds: dict[str, list[Measure]] = {name: [] for name in commands}
    failed: dict[str, str] = {}
    for _ in range(ROUNDS):
        for name, (command, environment) in commands.items():
            if name in failed:
                continue
            if "HOME" in environment:  # tokscale keeps what it has parsed: that would not be a cold scan
                for folder in (".cache", ".config", ".local"):
                    shutil.rmtree(Path(environment["HOME"]) / folder, ignore_errors=True)
            try:
                rounds[name].append(measure(command, **environment))
            except subprocess.SubprocessError as error:
                failed[name] = type(error).__name__
    medians = {
        name: {
            "wall_s": round(statistics.median(one.wall for one in runs), 3),
            "cpu_s": round(statistics.median(one.cpu for one in runs), 3),
            "rss_mb": round(statistics.median(one.rss_mb for one in runs), 1),
        }
        for name, runs in rounds.items()
        if runs and name not in failed
    }
    total = sum(path.stat().st_size for path in state.rglob("*") if path.is_file())
    return {"store": store, "bytes": total, "rounds": ROUNDS, "medians": medians, "failed": failed}
