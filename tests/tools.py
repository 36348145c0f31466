"""Programs for tests, from Debian's packages, without root: Prometheus, Alertmanager, Chromium, docker-compose.

Found in this order: the `LOBS_*_BIN` that a user sets, PATH, `.cache/tools` of the repository, and at last the
packages of the machine's own apt sources, downloaded and unpacked into `.cache/tools`. The system is not changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache" / "tools"
APT_TIMEOUT = 240.0  # seconds for one apt command; a slow mirror is still faster


@dataclass(frozen=True, slots=True)
class _Tool:
    package: str
    binaries: tuple[str, ...]  # names on PATH, Debian's first
    variable: str = ""  # names this binary, or the one that it is installed beside
    # A program that needs what its package depends on: unpacked along with whatever of that the machine lacks, and
    # started by a launcher that says where it is. This is its place in the package.
    launched: str = ""


TOOLS = {
    "prometheus": _Tool("prometheus", ("prometheus",), "LOBS_PROMETHEUS_BIN"),
    "promtool": _Tool("prometheus", ("promtool",), "LOBS_PROMETHEUS_BIN"),
    "alertmanager": _Tool(
        "prometheus-alertmanager", ("prometheus-alertmanager", "alertmanager"), "LOBS_ALERTMANAGER_BIN"
    ),
    "amtool": _Tool("prometheus-alertmanager", ("amtool",), "LOBS_ALERTMANAGER_BIN"),
    "chromium": _Tool("chromium", ("chromium", "google-chrome"), launched="usr/lib/chromium/chromium"),
    "docker-compose": _Tool("docker-compose", ("docker-compose",), launched="usr/bin/docker-compose"),
}
LAUNCHER = """\
#!/bin/sh
root=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
LD_LIBRARY_PATH={libraries}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}
PYTHONPATH=$root/usr/lib/python3/dist-packages${{PYTHONPATH:+:$PYTHONPATH}}
FONTCONFIG_FILE=$root/fonts.conf
export LD_LIBRARY_PATH PYTHONPATH FONTCONFIG_FILE
exec "$root/{program}" "$@"
"""
FONTS = """\
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir prefix="relative">usr/share/fonts</dir>
  <dir>/usr/share/fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""
# Where Debian compiled a package to find its data files.
_DATA = {"prometheus-alertmanager": b"/usr/share/prometheus/alertmanager"}


class ToolUnavailableError(Exception):
    """A binary is neither here nor to be had; the text says why."""


def debian_tool(name: str) -> Path:
    """The path of one of TOOLS; skips the test loudly where there is none.

    Safe when several test processes ask at once. The first call may download some 30 MB, for Chromium 120 MB.
    """
    try:
        return find_tool(name)
    except ToolUnavailableError as error:
        from tests.conftest import missing  # noqa: PLC0415 - that module may import this one

        named = f", or set {TOOLS[name].variable}" if TOOLS[name].variable else ""
        missing(name, f"{error}; install it{named}")
        raise


def find_tool(name: str, cache: Path = CACHE) -> Path:
    """As `debian_tool`, but raises ToolUnavailableError."""
    tool = TOOLS[name]
    path = _installed(tool)
    if path is None:
        path = _unpacked(tool, cache) or _fetched(tool, cache)
        _link_data(tool.package, cache)
    return path


def _installed(tool: _Tool) -> Path | None:
    named = os.environ.get(tool.variable, "") if tool.variable else ""
    if named:
        for binary in tool.binaries:
            path = Path(named).with_name(binary)
            if os.access(path, os.X_OK):
                return path
    for binary in tool.binaries:
        found = shutil.which(binary)
        if found:
            return Path(found)
    return None


def _unpacked(tool: _Tool, cache: Path) -> Path | None:
    folder = cache / tool.package if tool.launched else cache / tool.package / "usr" / "bin"
    for binary in tool.binaries:
        path = folder / binary
        if os.access(path, os.X_OK):
            return path
    return None


def _fetched(tool: _Tool, cache: Path) -> Path:
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise ToolUnavailableError(f"there is no {program} on this machine to fetch Debian's {tool.package} with")
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        path = _unpacked(tool, cache)  # another process may have been faster
        if path is None:
            _fetch(tool, cache)
            path = _unpacked(tool, cache)
    if path is None:
        raise ToolUnavailableError(f"Debian's package {tool.package} has no {tool.binaries[0]}")
    return path


def _fetch(tool: _Tool, cache: Path) -> None:
    """Unpack one package into `cache/package`, whole or not at all; with its dependencies only where it needs them."""
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as temporary:
        work = Path(temporary)
        for folder in ("lists/partial", "cache/archives/partial", "root"):
            (work / folder).mkdir(parents=True)
        apt = [
            "apt-get",
            "--quiet",
            f"--option=Dir::State::lists={work / 'lists'}",
            f"--option=Dir::Cache={work / 'cache'}",
            # As root, apt would drop to a user who may not write here; as anyone else this means nothing.
            "--option=APT::Sandbox::User=root",
            "--option=Acquire::Retries=3",
        ]
        _run([*apt, "update"], work)
        packages = [tool.package]
        if tool.launched:
            plan = _run([*apt, "--simulate", "--no-install-recommends", "install", tool.package], work)
            packages = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
        _run([*apt, "download", *packages], work)
        archives = sorted(work.glob("*.deb"))
        if not archives:
            raise ToolUnavailableError(f"apt-get downloaded no package {tool.package}")
        for archive in archives:
            _run(["dpkg", "-x", str(archive), str(work / "root")], work)
        if tool.launched:
            _write_launcher(tool, work / "root")
        _redirect_data(tool.package, work / "root", cache)
        (work / "root").replace(cache / tool.package)


def _write_launcher(tool: _Tool, root: Path) -> None:
    folders = sorted({path.parent for path in root.rglob("*.so*") if path.parent != (root / tool.launched).parent})
    libraries = ":".join(f"$root/{folder.relative_to(root)}" for folder in folders)
    launcher = root / tool.binaries[0]
    launcher.write_text(LAUNCHER.format(libraries=libraries, program=tool.launched), encoding="utf-8")
    launcher.chmod(0o755)
    (root / "fonts.conf").write_text(FONTS, encoding="utf-8")


def _redirect_data(package: str, root: Path, cache: Path) -> None:
    """Make the unpacked binaries read their data files (Debian's Alertmanager: its default template) from the cache.

    Debian compiles the place of the installed file into the binary, where an ordinary user may not write. The path
    is exchanged for one of the same length, because the places of everything behind it are compiled in as well.
    """
    data = _DATA.get(package)
    if data is None:
        return
    for binary in sorted((root / "usr" / "bin").iterdir()):
        content = binary.read_bytes()
        if data in content:
            binary.write_bytes(content.replace(data, os.fsencode(_link(data, cache))))


def _link(data: bytes, cache: Path) -> Path:
    folder = "/tmp/lobs-"  # a short absolute path that everybody may write; who owns the link is checked
    mark = hashlib.sha256(f"{os.getuid()}:{cache.resolve()}".encode()).hexdigest()
    return Path(folder + mark[: len(data) - len(folder)])


def _link_data(package: str, cache: Path) -> None:
    data = _DATA.get(package)
    if data is None:
        return
    link = _link(data, cache)
    with suppress(FileExistsError):
        link.symlink_to(cache.resolve() / package / os.fsdecode(data).lstrip("/"))
    if link.lstat().st_uid != os.getuid():
        raise ToolUnavailableError(f"{link} belongs to another user")


def _run(command: list[str], directory: Path) -> str:
    """What the program printed."""
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=APT_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolUnavailableError(f"{command[0]} took longer than {APT_TIMEOUT:.0f} s") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise ToolUnavailableError(f"{command[0]} failed: {words[-1] if words else f'status {done.returncode}'}")
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # given back by the kernel, also when this process is killed
        yield
