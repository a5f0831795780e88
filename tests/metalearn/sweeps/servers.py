"""Real servers for the tests of sweeps: PostgreSQL, and optuna's gRPC proxy before it."""

import glob
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Postgres:
    """A PostgreSQL server with a password, in a folder of its own."""

    def __init__(self, folder):
        self._binaries = _postgres_binaries()
        self._data, self._port = folder / "postgres", free_port()
        self._user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        self._data.mkdir()
        (folder / "password").write_text("secret-word")
        if self._user:
            for path in (self._data, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
            for parent in (folder, *folder.parents):  # pytest's folders are closed to other users
                if parent == Path(os.sep):
                    break
                if not parent.stat().st_mode & 0o001:
                    parent.chmod(parent.stat().st_mode | 0o011)
        words = ["-A", "scram-sha-256", "-U", "sweeper", "--pwfile", folder / "password", "--no-sync"]
        self._run("initdb", "-D", self._data, *words)
        self.url = f"postgresql+psycopg://sweeper:secret-word@127.0.0.1:{self._port}/postgres"

    def start(self):
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self._data / "log", "-o", options, "start")

    def stop(self):
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "stop")

    def _run(self, name, *words):
        command = [str(self._binaries / name), *map(str, words)]
        done = subprocess.run(
            command, cwd=os.sep, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60, **self._user
        )
        assert done.returncode == 0, done.stderr


class Proxy:
    """Optuna's gRPC proxy before a database, as its documentation starts it."""

    def __init__(self, url):
        self._behind, self._port = url, free_port()
        self.url = f"grpc://127.0.0.1:{self._port}"

    def start(self):
        code = (
            "import optuna\n"
            f"storage = optuna.storages.get_storage({self._behind!r})\n"
            f"optuna.storages.run_grpc_proxy_server(storage, host='127.0.0.1', port={self._port})\n"
        )
        self._process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stderr=subprocess.DEVNULL)
        for _ in range(300):
            with socket.socket() as caller:
                if caller.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError("the proxy does not answer")

    def stop(self):
        self._process.kill()
        self._process.wait()


def skip_without(*modules):
    """Skip the test unless a PostgreSQL server and these modules are installed."""
    if _postgres_binaries() is None:
        pytest.skip("there is no PostgreSQL server (Debian's package postgresql)")
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"the package {module} is missing")


def _postgres_binaries():
    places = [shutil.which("initdb"), *sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True)]
    return next((Path(place).resolve().parent for place in places if place), None)
