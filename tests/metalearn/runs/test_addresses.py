"""Addresses of storages in messages, in drivers' errors and in a run's folder: never with a password."""

import sys

import pytest

from metalearn.cli.main import main
from metalearn.errors import RunError
from metalearn.runs.addresses import hide_in_command, hide_in_text, hide_password
from metalearn.runs.environment import environment
from metalearn.sweeps import open_sweep
from metalearn.sweeps.storage import storage_errors
from tests.metalearn.sweeps import sweep_cells as cells

SHOWN = {
    # The user, up to the last @ before the host.
    "postgresql://me:secret@host:5432/x": "postgresql://me:***@host:5432/x",
    "mysql://me:sec@ret@host/x": "mysql://me:***@host/x",
    "mysql://me:sec/ret@host/x": "mysql://me:***@host/x",
    "mysql://me:sec?r@et@host/x": "mysql://me:***@host/x",
    "mysql://me:sec:ret@[::1]:3306/x": "mysql://me:***@[::1]:3306/x",
    "mysql://:secret@host/x": "mysql://:***@host/x",
    "mysql://me@corp:secret@host/x": "mysql://me@corp:***@host/x",
    "grpc://me:secret@host": "grpc://me:***@host",
    "grpc://secret@host:13000": "grpc://***@host:13000",
    "sqlite+pysqlcipher://:secret@/x.db": "sqlite+pysqlcipher://:***@/x.db",
    # Parameters.
    "postgresql://host:1/x?user=me&password=secret": "postgresql://host:1/x?user=me&password=***",
    "postgresql://me:secret@host/x?PASSWD=secret&port=1": "postgresql://me:***@host/x?PASSWD=***&port=1",
    "postgresql://host/x?pwd=secret;sslmode=require": "postgresql://host/x?pwd=***;sslmode=require",
    "postgresql://host/x?sslpassword=sec@ret": "postgresql://host/x?sslpassword=***",
    "postgresql://host/x?user=me@corp&access_token=secret": "postgresql://host/x?user=me@corp&access_token=***",
    "postgresql://host/x?pass%77ord=secret": "postgresql://host/x?pass%77ord=***",
    "postgresql://host/x?secret": "postgresql://host/x?***",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dsecret": "mssql+pyodbc:///?odbc_connect=***",
    # What is no URL.
    "postgresql:/me:secret@host/x": "postgresql:/me:***@host/x",
    "postgresql:me:secret@host/x": "postgresql:me:***@host/x",
    "postgresql:///me:secret@host/x": "postgresql:///me:***@host/x",
    "//me:secret@host/x": "//me:***@host/x",
    "me:secret@host": "me:***@host",
    "me:secret": "me:***",
    "mysql://me:secret": "mysql://me:***",
    "mysql://me:se?cr=et@host/x": "mysql://me:***",
    "host=host dbname=x password=secret": "host=host dbname=x password=***",
    "host=host password='sec ret'": "host=host password=*** ***",
    "jdbc:sqlserver://host:1;user=me;password=secret": "jdbc:sqlserver://host:1;user=me;password=***",
    "sqlite:///x.db?timeout=3&key=secret": "sqlite:///x.db?timeout=3&key=***",
}
WHOLE = (
    *("sqlite:////home/me/a b@c:d;e=f/x.db", "sqlite:///C:/x.db", "sqlite:///file:x.db?mode=ro&uri=true"),
    *("grpc://localhost:13000", "grpc://[::1]:13000", "postgresql://a:1,b:2/x?target_session_attrs=any", "a name", ""),
)


@pytest.mark.parametrize("address", SHOWN)
def test_a_password_is_hidden_and_the_rest_is_shown(address):
    assert hide_password(address) == SHOWN[address]


@pytest.mark.parametrize("address", WHOLE)
def test_an_address_without_a_password_is_shown_as_it_is(address):
    assert hide_password(address) == address
    assert hide_in_text(f"cannot open {address}", address) == f"cannot open {address}"


@pytest.mark.parametrize(
    ("address", "text", "shown"),
    [
        ("pg://me:secret@host/x", "no postgresql://me:secret@host:5/x", "no postgresql://me:***@host:5/x"),
        ("pg://me:s%40cr%2Ft@host/x", "'s@cr/t', s%40cr%2Ft", "'***', ***"),
        ("pg://me:s@cr/t@host/x", "no s%40cr%2Ft", "no ***"),
        ("pg://me:sec@ret@host/x", "no ret@host, nor secretary", "no ***@host, nor secretary"),
        ("pg://host/x?password=secret&user=me", "user=me password=secret", "user=me password=***"),
        ("pg://me:secret/x", "invalid literal for int(): 'secret'", "invalid literal for int(): '***'"),
        ("pg://me:it's\\n@host/x", repr("it's\\n"), '"***"'),
        ("pg://me:a@host/x", "a password: bad", "*** password: bad"),
        ("pg://me:secret@host/x", "connection refused", "connection refused"),
    ],
)  # fmt: skip
def test_a_text_about_an_address_is_shown_without_the_password_and_its_parts(address, text, shown):
    assert hide_in_text(text, address) == shown


@pytest.mark.parametrize(
    "address",
    [
        *("postgresql+nothing://127.0.0.1:1/db?user=me&password=secret", "grpc://me:secret@host", "no://me:secret"),
        *("sqlite://me:secret@host/x", "sqlite:///{secret}.db?password={secret}", "postgresql://host:secret/x"),
    ],
)
def test_a_storage_that_is_refused_is_named_without_its_password(address):
    with pytest.raises(RunError, match="the storage ") as caught:
        open_sweep(cells.plan(1), address)
    error: BaseException | None = caught.value
    while error is not None:  # a trace shows the causes too
        assert "secret" not in str(error).replace("{secret}.db", "")
        error = error.__cause__


def test_a_port_that_is_no_number_is_not_quoted():
    """It may hold the end of a password, which was not written as an address wants it."""
    with pytest.raises(RunError, match=r"its port is no number; in a user or a password, write @") as caught:
        open_sweep(cells.plan(1), "postgresql://me:s3@cret:x@h:notaport/db")
    assert "'x" not in str(caught.value) and "cret" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__  # a trace would show it


def test_a_drivers_error_is_shown_without_the_password():
    with pytest.raises(RunError) as caught, storage_errors("postgresql://me:secret@host/x"):
        raise ConnectionRefusedError("no answer from postgresql://me:secret@host:5432/x")
    assert "cannot be used: no answer from postgresql://me:***@host:5432/x. " in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_the_command_line_and_a_runs_folder_do_not_repeat_a_password(capsys, monkeypatch):
    assert main(["sweep", "digits", "--seeds", "2", "--storage", "postgresql:/me:secret@host/x"]) == 2
    err = capsys.readouterr().err
    assert "got 'postgresql:/me:***@host/x'" in err and "secret" not in err
    address = "postgresql://me:secret@host/x"
    words = ["metalearn", "sweep", "--storage", address, f"--storage={address}", "--out", "a:b@c"]
    shown = ["metalearn", "sweep", "--storage", SHOWN_ADDRESS, f"--storage={SHOWN_ADDRESS}", "--out", "a:b@c"]
    assert hide_in_command(words) == shown
    monkeypatch.setattr(sys, "argv", words)
    assert environment()["command"] == shown


SHOWN_ADDRESS = "postgresql://me:***@host/x"
