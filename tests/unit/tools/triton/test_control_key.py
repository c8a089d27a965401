"""Where the control key is kept, and that the client looks for it there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fluxclient.transport.address import Address
from fluxclient.transport.control_key import find_control_key
from tools.triton.control_key import find_key, key_file, publish, withdraw

PORTS = (8000, 8001)


@pytest.fixture(params=["home", "folder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TRITON_CONTROL_KEY", raising=False)
    monkeypatch.delenv("TRITON_CONTROL_KEY_FOLDER", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if request.param == "home":
        return tmp_path / ".cache" / "flux-triton"
    monkeypatch.setenv("TRITON_CONTROL_KEY_FOLDER", str(tmp_path / "keys"))
    return tmp_path / "keys"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_the_tools_and_the_client_find_what_was_published(folder: Path, host: str) -> None:
    publish("a key", PORTS)
    for port in PORTS:
        assert key_file(port).parent == folder
        assert find_key(host, port) == find_control_key(Address(f"http://{host}:{port}")) == "a key"
        assert find_key("example.org", port) is find_control_key(Address(f"http://example.org:{port}")) is None


def test_a_file_is_for_its_owner_alone_and_nothing_is_beside_it(folder: Path) -> None:
    publish("old", PORTS)
    publish("a key", PORTS)
    assert {file.name for file in folder.iterdir()} == {"control-key-8000", "control-key-8001"}
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in folder.iterdir())
    withdraw("old", PORTS)
    assert len(list(folder.iterdir())) == 2, "those of the successor"
    withdraw("a key", PORTS)
    assert not list(folder.iterdir())


def test_a_key_that_is_given_is_in_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish("of a launcher that was killed", PORTS)
    monkeypatch.setenv("TRITON_CONTROL_KEY", "given")
    publish("given", PORTS)
    assert not list(folder.iterdir())
    assert find_key("example.org", 8000) == find_control_key(Address("http://example.org:8000")) == "given"


def test_no_link_of_anothers_is_followed_and_no_half_of_a_file_stays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(parents=True)
    (folder / "control-key-8000").symlink_to(tmp_path / "elsewhere")
    publish("a key", [8000])
    assert not (tmp_path / "elsewhere").exists()

    def full(handle: int, mode: str) -> object:
        os.close(handle)
        raise OSError("no space")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OSError, match="no space"):
        publish("another", PORTS)
    assert not list(folder.iterdir())
