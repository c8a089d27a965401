from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from loadtest.failures import BadInput, Refused
from loadtest.server.guard import Guard
from loadtest.server.reconfigurer import Reconfigurer, Untouched
from loadtest.server.strategies import AS_FOUND, STRATEGIES
from loadtest.server.target import parse_target
from tests.unit.loadtest.server.api_server import CONFIGURATION, ApiServer
from tools.triton.api import TritonApi
from tools.triton.installation import PROJECT


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """Its parameter is the key that it wants, if any."""
    with ApiServer(getattr(request, "param", None)).serving() as server:
        yield server


def test_strategies_are_set_one_after_another_and_the_former_one_comes_back(server: ApiServer) -> None:
    reconfigurer = Reconfigurer(server.api, "flux")
    for name in ("baseline", "baseline", "batch"):
        reconfigurer.apply(STRATEGIES[name])
    reconfigurer.restore()
    reconfigurer.restore()
    modes = [configuration["parameters"]["scheduling"]["string_value"] for configuration in server.loaded]
    assert modes == ["serial", "static", "continuous"]
    assert server.configuration == CONFIGURATION


def test_no_strategy_inherits_running_instances_from_the_one_before(server: ApiServer) -> None:
    """Triton keeps them where nothing but their number changes."""
    reconfigurer = Reconfigurer(server.api, "flux")
    reconfigurer.apply(STRATEGIES["baseline"])
    reconfigurer.apply(replace(STRATEGIES["model_pool"], instances=2))
    reconfigurer.restore()
    one, two, last = (configuration["parameters"] for configuration in server.loaded)
    assert one != two != last


def test_nothing_is_loaded_where_nothing_was_changed(server: ApiServer) -> None:
    Reconfigurer(server.api, "flux").restore()
    assert server.loaded == []


def test_a_server_that_is_stopped_anyway_is_not_restored(server: ApiServer) -> None:
    reconfigurer = Reconfigurer(server.api, "flux", restores=False)
    reconfigurer.apply(STRATEGIES["baseline"])
    reconfigurer.restore()
    assert len(server.loaded) == 1


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (
            "explicit model load / unload is not allowed if polling is enabled",
            "has no model control: explicit model load / unload is not allowed if polling is enabled. Start it with "
            "--model-control-mode=explicit, or measure it as it is with --no-reconfigure",
        ),
        ("This API is restricted, expecting header 'key'", "no rights to load models: This API is restricted"),
        ("config.pbtxt: unknown parameter 'x'", "strategy baseline: config.pbtxt: unknown parameter 'x'"),
    ],
)
def test_a_refusal_says_what_to_do_and_leaves_nothing_to_restore(server: ApiServer, refusal: str, told: str) -> None:
    reconfigurer = Reconfigurer(server.api, "flux")
    server.refusal = refusal
    with pytest.raises(Refused) as raised:
        reconfigurer.apply(STRATEGIES["baseline"])
    assert told in str(raised.value)
    reconfigurer.restore()  # would raise if it tried


def test_a_restoration_that_fails_says_how_to_get_back(server: ApiServer) -> None:
    reconfigurer = Reconfigurer(server.api, "flux")
    reconfigurer.apply(STRATEGIES["baseline"])
    server.refusal = "out of memory"
    with pytest.raises(Refused, match=r"could not be restored: out of memory.*curl -X POST http://127.0.0.1:"):
        reconfigurer.restore()


def test_a_model_that_is_not_there(server: ApiServer) -> None:
    with pytest.raises(Refused, match="has no model 'other'"):
        Reconfigurer(server.api, "other")


def test_nobody_at_the_address() -> None:
    with pytest.raises(Refused, match=r"no Triton is ready at http://127\.0\.0\.1:1 .*Connection refused"):
        Reconfigurer(TritonApi("127.0.0.1", 1), "flux")


def test_an_untouched_server_must_be_what_its_name_says(server: ApiServer) -> None:
    untouched = Untouched(server.api, "flux")
    untouched.apply(AS_FOUND)
    untouched.apply(STRATEGIES["async"])
    with pytest.raises(BadInput, match="the server is not set to strategy baseline"):
        untouched.apply(STRATEGIES["baseline"])
    assert server.loaded == []


def test_a_server_that_wants_its_key_is_set_up_with_it_and_not_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_CONTROL_KEY", raising=False)
    with ApiServer("secret").serving() as server:
        reconfigurer = Reconfigurer(parse_target(f"127.0.0.1:{server.api.port}", control_key="secret").api, "flux")
        reconfigurer.apply(STRATEGIES["baseline"])
        server.refusal = "out of memory"
        with pytest.raises(Refused, match=r"curl -X POST .*/load -H 'triton-control: KEY'") as raised:
            reconfigurer.restore()
        assert "secret" not in str(raised.value)
        stranger = Reconfigurer(parse_target(f"127.0.0.1:{server.api.port}").api, "flux")
        with pytest.raises(Refused, match=r"restricted.*--control-key or TRITON_CONTROL_KEY gives the server's key"):
            stranger.apply(STRATEGIES["batch"])
        stranger.restore()  # there is nothing to restore; ends its guard


@pytest.mark.parametrize("server", [None, "secret"], indirect=True)
def test_the_guard_restores_when_the_lab_is_killed(server: ApiServer) -> None:
    """A process that sets a strategy and is killed before it can do anything else."""
    program = (
        "import os, signal\n"
        "from loadtest.server.reconfigurer import Reconfigurer\n"
        "from loadtest.server.strategies import STRATEGIES\n"
        "from tools.triton.api import TritonApi\n"
        f"server = Reconfigurer(TritonApi('127.0.0.1', {server.api.port}, {server.api.control_key!r}), 'flux')\n"
        "server.apply(STRATEGIES['baseline'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    paths = {"PYTHONPATH": f"{PROJECT}:{PROJECT}/client"}
    died = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, env=paths)
    assert died.returncode == -9
    server.wait_for_loads(2)
    assert server.configuration == CONFIGURATION


def test_a_dismissed_guard_does_nothing(server: ApiServer) -> None:
    guard = Guard(server.api, "flux", CONFIGURATION)
    guard.dismiss()
    assert server.loaded == []
