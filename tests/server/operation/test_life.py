"""Loading, unloading, reloading, stopping and dying, with requests in flight; other configurations and checkpoints."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from tests.checkpoints import make_checkpoint
from tests.server import wire
from tests.server.answers import Answer
from tests.server.reference import Drawing, Reference
from tests.server.servers import ENGINE, Measured, environment, grpc, http, outliving, settled, started, until
from tests.server.wire import GrpcStream
from tools.triton.api import JSON
from tools.triton.errors import ServerFailed
from tools.triton.installation import Installation, find_triton
from tools.triton.server import TritonServer
from tools.triton.stub import Stub

pytestmark = pytest.mark.slow

ONE = Drawing("whatever happens", steps=3, seed=11)
LONG = [Drawing(f"on its way {n}", steps=60 + 10 * n, seed=n) for n in range(3)]
LONGER = [Drawing(f"still on its way {n}", steps=150 + 10 * n, seed=n) for n in range(3)]
"""Long enough for the metrics, which come twice a second, to tell of all of them at once."""

ENDLESS = {"prompt": "takes long", "num_inference_steps": 1000, "width": 256, "height": 256}


class Bare:
    """A server whose flux has all its settings from what a test loads it with."""

    def __init__(self, server: TritonServer, configuration: JSON, checkpoint: Path) -> None:
        self.server = server
        self.grpc = grpc(server)
        self.http = http(server)
        self._configuration = configuration
        self._checkpoint = checkpoint

    def load(self, parameters: Mapping[str, str] | None = None, instances: int = 1) -> None:
        configuration = deepcopy(self._configuration)
        configuration["instance_group"][0]["count"] = instances
        all_parameters = {"model": str(self._checkpoint), **ENGINE, **(parameters or {})}
        self.server.load("flux", configuration, parameters=all_parameters)


@pytest.fixture(scope="module")
def bare(triton: TritonServer, checkpoint: Path) -> Iterator[Bare]:
    configuration = triton.api.configuration("flux")
    with started(models=("flux_unary",), exit_timeout_s=60) as server:
        bare = Bare(server, configuration, checkpoint)
        bare.load()
        yield bare


def is_stepping(answer: Answer) -> bool:
    return any(event.kind == "progress" for event in answer.events)


def send_long_ones(stream: GrpcStream, drawings: list[Drawing] = LONG) -> None:
    for drawing in drawings:
        stream.send(drawing.prompt, {**drawing.inputs, "progress": True})
    for drawing in drawings:
        stream.wait_for(drawing.prompt, is_stepping)


def expect_long_ones(stream: GrpcStream, reference: Reference, drawings: list[Drawing] = LONG) -> None:
    for drawing in drawings:
        reference.holds_answer([drawing], stream.answer(drawing.prompt))


# ---- load and unload ----


def test_unload_lets_those_in_flight_finish_and_load_serves_again(bare: Bare, reference: Reference) -> None:
    with GrpcStream(bare.grpc) as stream, ThreadPoolExecutor(1) as pool:
        send_long_ones(stream, LONGER)
        unary = pool.submit(wire.grpc_infer, bare.grpc, LONGER[0].inputs)
        until(lambda: Measured(bare.server).total("flux_jobs_running") == 4, "four images on their way")
        bare.server.api.unload("flux", timeout_s=wire.ANSWER_S)
        expect_long_ones(stream, reference, LONGER)
        reference.holds_answer([LONGER[0]], unary.result())
    bare.server.unload("flux")  # now waited for: Triton 24.10 lets go of the model when the stream is closed
    for answer in (wire.grpc_stream(bare.grpc, ONE.inputs), wire.grpc_infer(bare.grpc, ONE.inputs, model="flux")):
        assert "'flux' is not found" in str(answer.error) or "no available versions" in str(answer.error)
    told = wire.grpc_infer(bare.grpc, ONE.inputs, request_id="orphan")
    assert told.error == "FLUX_UNAVAILABLE: flux: is not loaded on this server; try again later [request orphan]"
    assert told.status == "StatusCode.UNAVAILABLE"
    bare.load()
    reference.holds_answer([ONE], wire.grpc_stream(bare.grpc, ONE.inputs))
    reference.holds_answer([ONE], wire.grpc_infer(bare.grpc, ONE.inputs))


def test_no_request_is_lost_while_the_model_is_reloaded(bare: Bare, reference: Reference) -> None:
    """Some run when the reload begins, and others keep coming until it is over."""
    stop = threading.Event()
    drawings = [Drawing(f"comes meanwhile {n}", steps=4 + n, seed=n) for n in range(4)]

    def keep_asking(drawing: Drawing) -> list[Answer]:
        ask = wire.grpc_infer if drawing.seed % 2 else wire.grpc_stream
        answers = []
        while not stop.is_set():
            answers.append(ask(bare.grpc, drawing.inputs))
        return answers

    with GrpcStream(bare.grpc) as stream, ThreadPoolExecutor(len(drawings)) as pool:
        send_long_ones(stream)
        asking = [pool.submit(keep_asking, drawing) for drawing in drawings]
        try:
            bare.load({"default_steps": "7"})
        finally:
            stop.set()
        for drawing, future in zip(drawings, asking, strict=True):
            for answer in future.result():
                reference.holds_answer([drawing], answer)
        expect_long_ones(stream, reference)
    assert wire.grpc_stream(bare.grpc, {"prompt": "by default"}).infos[0]["steps"] == 7


# ---- settings ----

BAD: dict[str, tuple[dict[str, str], str]] = {
    "unknown": (
        {"max_bach": "4"},
        "config.pbtxt: unknown parameter 'max_bach'; did you mean 'max_batch'?",
    ),
    "not a number": (
        {"max_batch": "abc"},
        "config.pbtxt: parameter 'max_batch' is 'abc': must be an integer from 1 to 256",
    ),
    "compile": ({"compile": "on"}, "parameter 'compile' is 'on': must be one of off, default, reduce-overhead"),
    "step cache": ({"step_cache": "on"}, "parameter 'step_cache' is 'on': must be a number from 0.001 to 1, or off"),
    "quantization": (
        {"quantization": "fp8_dynamic"},
        "quantization is 'fp8_dynamic': needs a GPU of compute capability",
    ),
    "LoRA folder": ({"lora_dir": "nowhere"}, "lora_dir is 'nowhere': there is no such folder"),
    "no model": (
        {"model": "/nonexistent"},
        "model is '/nonexistent': neither a folder in diffusers' format (model_index.json",
    ),
    "no GPU": ({"device_placement": "cuda:7"}, "device_placement: cuda:7 is wanted, but this build of torch"),
    "contradiction": ({"default_steps": "9", "max_steps": "8"}, "default_steps is 9: more than max_steps (8)"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_setting_is_named_and_the_model_serves_on(what: str, bare: Bare, reference: Reference) -> None:
    parameters, text = BAD[what]
    with pytest.raises(ServerFailed) as failure:
        bare.load(parameters)
    assert text in str(failure.value).split("\n")[0]
    reference.holds_answer([ONE], wire.grpc_stream(bare.grpc, ONE.inputs))


def test_a_bad_variable_stops_the_server_and_is_named(checkpoint: Path) -> None:
    settings = environment(model=str(checkpoint), max_batch="abc")
    with pytest.raises(ServerFailed) as failure, started(environment=settings):
        pass
    assert "environment variable FLUX_MAX_BATCH is 'abc': must be an integer from 1 to 256" in str(failure.value)


@pytest.mark.parametrize("scheduling", ["static", "serial"])
def test_the_other_modes_draw_the_same_pictures(scheduling: str, bare: Bare, reference: Reference) -> None:
    """Four requests of one kind, four that differ in steps, guidance or size."""
    bare.load({"scheduling": scheduling})
    alike = [Drawing(f"alike {n}", steps=6, guidance=2.0, seed=n) for n in range(4)]
    others = [
        Drawing("other steps", steps=5, guidance=2.0),
        Drawing("other guidance", steps=6, guidance=4.0),
        Drawing("other size", steps=6, guidance=2.0, width=64),
        Drawing("all other", steps=2, guidance=1.0, height=192),
    ]
    with GrpcStream(bare.grpc) as stream:
        with GrpcStream(bare.grpc) as leaving:
            leaving.send("first", {**ENDLESS, "progress": True})
            leaving.wait_for("first", is_stepping)
            for drawing in [*alike, *others]:
                stream.send(drawing.prompt, drawing.inputs)
            until(lambda: Measured(bare.server).total("flux_jobs_waiting") == 8, "all the others to wait together")
        answers = {drawing: stream.answer(drawing.prompt) for drawing in [*alike, *others]}
    for drawing, answer in answers.items():
        reference.holds_answer([drawing], answer)
    batches = {drawing: answer.infos[0]["mean_batch"] for drawing, answer in answers.items()}
    assert [batches[drawing] for drawing in others] == [1, 1, 1, 1]
    assert [batches[drawing] for drawing in alike] == ([4, 4, 4, 4] if scheduling == "static" else [1, 1, 1, 1])


def test_two_instances_both_get_work(bare: Bare, reference: Reference) -> None:
    bare.load(instances=2)
    drawings = {f"{n}": Drawing(f"for either {n}", steps=20 + n, seed=n) for n in range(24)}
    with GrpcStream(bare.grpc) as stream:
        for name, drawing in drawings.items():
            stream.send(name, drawing.inputs)
        for name, drawing in drawings.items():
            reference.holds_answer([drawing], stream.answer(name))
    until(
        lambda: {"flux_0_0", "flux_0_1"} <= settled(bare.server).by("flux_images_total", "instance").keys(),
        "images by both instances",
    )


def test_a_timestep_distilled_checkpoint_serves(bare: Bare, tmp_path: Path) -> None:
    """As FLUX.1 [schnell]: without guidance, and without dynamic shifting."""
    checkpoint = make_checkpoint(tmp_path / "schnell", guided=False)
    bare.load({"model": str(checkpoint), "default_steps": "auto", "max_sequence_length": "auto"})
    schnell = Reference(checkpoint)
    drawings = [Drawing(f"fast {n}", steps=steps, guidance=0.0, seed=n) for n, steps in enumerate((1, 2, 4, 9))]
    with GrpcStream(bare.grpc) as stream:
        for drawing in drawings:
            stream.send(drawing.prompt, drawing.inputs)
        for drawing in drawings:
            schnell.holds_answer([drawing], stream.answer(drawing.prompt))
    answer = wire.grpc_stream(bare.grpc, {**drawings[1].inputs, "guidance_scale": 7.0})
    schnell.holds(drawings[1], answer.pictures()[0][0], 256)
    info = wire.grpc_stream(bare.grpc, {"prompt": "by default"}).infos[0]
    assert (info["steps"], info["guidance_scale"], info["max_sequence_length"]) == (4, None, 256)


# ---- the end ----


def test_sigterm_answers_those_in_flight_and_ends_cleanly(checkpoint: Path, reference: Reference) -> None:
    settings = environment(model=str(checkpoint))
    with started(environment=settings, exit_timeout_s=120) as server:
        with GrpcStream(grpc(server)) as stream, ThreadPoolExecutor(2) as pool:
            infer = pool.submit(wire.grpc_infer, grpc(server), LONGER[0].inputs)
            over_http = pool.submit(wire.http_infer, http(server), LONGER[1].inputs)
            send_long_ones(stream, LONGER)
            until(lambda: Measured(server).total("flux_jobs_running") == 5, "five images on their way")
            stubs = server.stubs()
            os.kill(server.pid, signal.SIGTERM)
            expect_long_ones(stream, reference, LONGER)
            reference.holds_answer([LONGER[0]], infer.result())
            reference.holds_answer([LONGER[1]], over_http.result())
        assert until(lambda: server.poll() is not None, "the end of the server")
        assert server.poll() == 0
        assert len(stubs) == 2
        assert not any(stub.alive for stub in stubs)


def stub_of(server: TritonServer, model: str) -> Stub:
    (stub,) = [stub for stub in server.stubs() if any(f"/{model}/1/" in argument for argument in stub.arguments)]
    return stub


def test_stopping_gives_up_in_time_what_would_take_too_long(checkpoint: Path) -> None:
    """tritonserver alone would break it off without a word, and crash. SIGTERM goes to its models as well."""
    settings = environment(model=str(checkpoint), drain_s="3")
    with started(environment=settings, exit_timeout_s=60) as server, ThreadPoolExecutor(3) as pool:
        with GrpcStream(grpc(server)) as stream:
            endless = [
                pool.submit(wire.grpc_infer, grpc(server), ENDLESS),
                pool.submit(wire.http_infer, http(server), ENDLESS),
            ]
            for n in range(20):
                stream.send(f"{n}", {**ENDLESS, "progress": True})
            until(lambda: Measured(server).total("flux_jobs_running") == 16, "a full batch")
            stubs = server.stubs()
            stopping = pool.submit(server.stop)
            until(lambda: "taking nothing more" in server.log_tail(), "the model to hear of it")
            newcomer = wire.grpc_stream(grpc(server), ONE.inputs)
            assert str(newcomer.error).startswith("FLUX_UNAVAILABLE: server: is stopping; send the request to another")
            for answer in (*(stream.answer(f"{n}") for n in range(20)), *(future.result() for future in endless)):
                assert "FLUX_CANCELLED: server: is stopping, and its time for requests in flight" in str(answer.error)
        assert stopping.result() == 0
        assert not any(stub.alive for stub in stubs)


def test_a_dead_facade_harms_nobody_who_asks_flux(checkpoint: Path, reference: Reference) -> None:
    """Between models, Triton waits for ever for the one that died, and the other answers nobody any more."""

    def dies(server: TritonServer) -> None:
        with ThreadPoolExecutor(2) as pool, GrpcStream(grpc(server)) as stream:
            lost = pool.submit(wire.grpc_infer, grpc(server), ENDLESS, client_timeout=30.0)
            send_long_ones(stream, LONGER[:1])
            until(lambda: Measured(server).total("flux_jobs_running") == 2, "two images on their way")
            stub = stub_of(server, "flux_unary")
            os.kill(stub.pid, signal.SIGKILL)
            until(lambda: not stub.alive, "the end of the process")
            until(lambda: Measured(server).total("flux_jobs_running") <= 1, "its request to be given up")
            expect_long_ones(stream, reference, LONGER[:1])
            reference.holds_answer([ONE], wire.grpc_stream(grpc(server), ONE.inputs))
            status, _ = wire.generate(http(server), ONE.inputs)
            assert status == 200
            server.api.unload("flux_unary", timeout_s=60)
            server.load("flux_unary")
            reference.holds_answer([ONE], wire.grpc_infer(grpc(server), ONE.inputs))
            assert lost.result().error is not None, "Triton forgets it, and its caller gives up"

    outliving(dies, environment=environment(model=str(checkpoint)))


def test_a_dead_process_fails_what_comes_and_a_reload_mends_it(checkpoint: Path, reference: Reference) -> None:
    """What was in flight over flux itself is lost: Triton 24.10 never ends it, so its callers can only leave. Those
    over flux_unary are told, and so is whoever comes."""

    def dies_and_is_loaded_anew(server: TritonServer) -> None:
        with GrpcStream(grpc(server)) as stream, ThreadPoolExecutor(2) as pool:
            stream.send("lost", {**ENDLESS, "progress": True})
            stream.wait_for("lost", is_stepping)
            unary = pool.submit(wire.grpc_infer, grpc(server), ENDLESS, request_id="unary")
            over_http = pool.submit(wire.http_infer, http(server), ENDLESS, request_id="http")
            until(lambda: Measured(server).total("flux_jobs_running") == 3, "three images on their way")
            stub = stub_of(server, "flux")
            os.kill(stub.pid, signal.SIGKILL)
            until(lambda: not stub.alive, "the end of the process")
            for ended in (unary.result(), over_http.result()):
                problem = "its process ended before it answered; send the request again"
                assert ended.error == f"FLUX_UNAVAILABLE: flux: {problem} [request {ended.request_id}]"
            for _ in range(3):
                assert "is not healthy" in str(wire.grpc_stream(grpc(server), ONE.inputs).error)
            told = wire.grpc_infer(grpc(server), ONE.inputs, request_id="told")
            assert str(told.error).startswith("FLUX_UNAVAILABLE: flux: is not loaded on this server")
            assert (told.status, str(told.error)[-15:]) == ("StatusCode.UNAVAILABLE", " [request told]")
            status, answer = wire.generate(http(server), ONE.inputs)
            assert status >= 400 and "is not healthy" in answer["error"]
        server.api.unload("flux", timeout_s=60)
        server.load("flux")
        reference.holds_answer([ONE], wire.grpc_stream(grpc(server), ONE.inputs))
        reference.holds_answer([ONE], wire.grpc_infer(grpc(server), ONE.inputs))

    outliving(dies_and_is_loaded_anew, environment=environment(model=str(checkpoint)))


@pytest.fixture
def cramped(tmp_path: Path) -> Installation:
    """A Triton that shares 20 MB of memory with its models, as in a container without --shm-size."""
    if os.getuid() != 0 or subprocess.run(["unshare", "--mount", "true"]).returncode:
        pytest.skip("needs the right to mount a /dev/shm of its own")
    installation = find_triton()
    script = tmp_path / "tritonserver"
    inside = f'mount -t tmpfs -o size=20m tmpfs /dev/shm && exec "{installation.executable}" "$@"'
    script.write_text(f"#!/bin/sh\nexec unshare --mount sh -c '{inside}' tritonserver \"$@\"\n")
    script.chmod(0o755)
    return replace(installation, executable=script)


def test_an_answer_that_shared_memory_cannot_hold_is_an_error(
    checkpoint: Path, reference: Reference, cramped: Installation
) -> None:
    pictures = {**ONE.inputs, "num_images_per_prompt": 8, "width": 1024, "height": 1024, "num_inference_steps": 1}
    settings = environment(model=str(checkpoint), max_size="1024x1024")
    with started(models=("flux",), environment=settings, installation=cramped) as server:
        large = wire.grpc_stream(grpc(server), {**pictures, "output_format": "raw"}, request_id="large")  # 25 MB
        assert str(large.error).startswith("FLUX_OUT_OF_MEMORY: answer: does not fit into /dev/shm: "), large.error
        assert str(large.error).endswith(" [request large]")
        reference.holds_answer([ONE], wire.grpc_stream(grpc(server), ONE.inputs))
        status, answer = wire.generate(http(server), ONE.inputs)
        assert status == 200, answer
        server.unload("flux")  # which waits for all senders


def test_a_crowd_at_the_facade_with_little_shared_memory(
    checkpoint: Path, reference: Reference, cramped: Installation
) -> None:
    """Each answer comes in two parts then, for whose order and distance flux has to care."""
    drawings = [Drawing(f"crowd {n}", steps=2, seed=n) for n in range(48)]
    with started(environment=environment(model=str(checkpoint)), installation=cramped) as server:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda drawing: wire.grpc_infer(grpc(server), drawing.inputs), drawings))
        for drawing, answer in zip(drawings, answers, strict=True):
            reference.holds_answer([drawing], answer)
