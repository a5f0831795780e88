"""Sweeps on a real server that is restarted while they run."""

import subprocess
from collections import Counter
from functools import partial

import pytest

from metalearn.errors import RunError
from metalearn.sweeps import open_sweep, run_sweep
from tests.metalearn.sweeps import servers
from tests.metalearn.sweeps import sweep_cells as cells


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    servers.skip_without("psycopg")
    server = servers.Postgres(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def proxy(postgres):
    servers.skip_without("grpc")
    server = servers.Proxy(postgres.url)
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("kind", ["postgres", "proxy"])
def test_all_cells_are_run_once_although_a_worker_is_killed_and_the_server_restarted(kind, request, tmp_path):
    server = request.getfixturevalue(kind)
    count, blocking, killed, restarted = 40, 9, [], []
    plan = cells.plan(count, kind)

    def disturb(found):
        pid = cells.blocked_pid(tmp_path, blocking)
        if pid is not None and not killed:
            killed.append(pid)
            subprocess.run(["kill", "-9", str(pid)], check=True)
        if killed and not restarted:
            restarted.append(sum(record.state == "done" for record in found))
            server.stop()
            server.start()

    found = run_sweep(
        plan,
        server.url,
        partial(cells.run, tmp_path, (blocking,)),
        workers=4,
        heartbeat=1,
        grace=6,
        watch=cells.Recorded(disturb),
        compiled=None,
    )
    assert len(killed) == 1 and len(restarted) == 1 and restarted[0] < count
    assert [(r.name, r.state, r.value) for r in found] == [(f"a-{i}", "done", i) for i in range(count)]
    assert sorted(cells.ended(tmp_path)) == list(range(count))
    states = Counter(
        trial.state.name for trial in open_sweep(plan, server.url).study.get_trials() if "spare" not in trial.user_attrs
    )
    assert states.keys() == {"COMPLETE", "FAIL"} and states["COMPLETE"] == count
    assert 1 <= states["FAIL"] <= 4  # the killed worker's, and a trial per other worker whose taking had no answer


def test_a_wrong_password_is_refused_without_showing_any(postgres):
    with pytest.raises(RunError) as caught:
        open_sweep(cells.plan(1), postgres.url.replace("secret", "wrong"))
    assert "sweeper:***@" in str(caught.value) and "password authentication failed" in str(caught.value)
    assert "secret" not in str(caught.value) and "wrong" not in str(caught.value)


@pytest.mark.parametrize("url", ["grpc://localhost", "grpc://:13000", "grpc://localhost:many"])
def test_the_address_of_a_proxy_needs_host_and_port(url):
    with pytest.raises(RunError, match=r"must be grpc://HOST:PORT, as in grpc://localhost:13000"):
        open_sweep(cells.plan(1), url)
