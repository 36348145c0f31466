"""Questions that chat asks of Prometheus: each on a real one, hostile parameters, and a Prometheus that is not well."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from api.services import promql
from api.services.chat import ChatService
from api.services.promql import METRIC_QUESTIONS, MOST_POINTS, MetricsError, Prometheus, selector
from lobservatory.metrics.catalogue import CATALOGUE
from lobservatory.settings import Settings
from store.pool import open_pool
from store.questions import MOST_ROWS, QUESTIONS
from tests.api.test_api_chat import Model, kinds, told
from tests.servers import prometheus, wait_for

EXPOSED = """\
# TYPE claw_session_context_ratio_max gauge
claw_session_context_ratio_max{gateway="home",agent="main"} 0.25
claw_session_context_ratio_max{gateway="work",agent="quo\\"te"} 0.5
claw_gateway_up{gateway="home"} 1
claw_host_load1{gateway="home"} 1.5
claw_provider_quota_used_ratio{gateway="home",provider="p",quota="week"} NaN
claw_model_call_duration_seconds_bucket{gateway="home",provider="p",model="at rest",le="1.0"} 5
claw_model_call_duration_seconds_bucket{gateway="home",provider="p",model="at rest",le="+Inf"} 5
""" + "".join(f'claw_rpc_latency_seconds{{gateway="home",method="m{n}"}} {n}\n' for n in range(100))


@contextlib.contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[str]:
    """A server that answers everything in one way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):  # who had enough hangs up
                self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Iterator[str]:
    """A Prometheus that has scraped what an exporter would say."""
    folder = tmp_path_factory.mktemp("prometheus")
    with answering(200, EXPOSED.encode(), **{"Content-Type": "text/plain; version=0.0.4"}) as exporter:
        config = folder / "prometheus.yml"
        target = exporter.removeprefix("http://")
        config.write_text(
            "global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: lobservatory\n    honor_labels: true\n"
            f'    static_configs: [{{targets: ["{target}"]}}]\n'
        )
        with prometheus(folder, config) as server:
            wait_for(lambda: server.query("count_over_time(claw_host_load1[1h]) > 1"), "two scrapes")
            yield server.url


@pytest.fixture
async def service_of_prometheus(postgres_dsn, postgres_reader_dsn, settings):
    async with open_pool(postgres_dsn) as pool, open_pool(postgres_reader_dsn) as reader:
        yield lambda model, url: ChatService(pool, reader, settings.model_copy(update={"prometheus_url": url}), model)


@pytest.mark.req("S1-9")
@pytest.mark.parametrize("name", METRIC_QUESTIONS)
@pytest.mark.parametrize("gateways", [None, {"home"}, {'a"b', "c|d", ".*", "\u00e9 e\n"}, set()])
async def test_every_question_is_promql_that_a_real_prometheus_answers(real, name, gateways):
    found = await Prometheus(real).answer(name, {}, gateways)
    if gateways not in (None, {"home"}):
        assert found == [], "nothing of gateways that may not be seen"
    assert len(found) <= MOST_ROWS


@pytest.mark.parametrize("what", ["model_calls", "failed_model_calls", "tool_calls", "tokens", "billed_usd"])
async def test_everything_that_can_be_counted_over_time_is_a_family_with_these_labels(real, what):
    await Prometheus(real).answer("course", {"what": what, "hours": 1, "agent": "main"}, None)
    metric, more = promql._COUNTED[what]
    assert {"gateway", "agent", *more} <= {*CATALOGUE[metric].labels}


async def test_rows_are_labels_and_values_of_the_gateways_that_may_be_seen(real):
    asked = Prometheus(real)
    everything = await asked.answer("context", {}, None)
    assert sorted((row["agent"], row["value"]) for row in everything) == [("main", 0.25), ('quo"te', 0.5)]
    assert [row["gateway"] for row in await asked.answer("context", {}, {"work"})] == ["work"]
    assert [row["value"] for row in await asked.answer("quota", {}, None)] == [None], "not a number is unknown"
    assert await asked.answer("model_latency", {}, None) == [], "a model without a call took no time"
    assert len(await asked.answer("gateway_rpc", {}, None)) == MOST_ROWS
    ((load),) = await asked.answer("load", {"hours": 1}, {"home"})
    assert 1 <= len(load["points"]) <= MOST_POINTS
    assert load["points"][-1][1] == 1.5


@pytest.mark.parametrize(
    "agent", ['x"} or vector(1) #', 'x",gateway=~".*', "x\\", "x\n", "}{", "\u2028", "x\x7f", "\U0001f600"]
)
async def test_a_parameter_stays_a_value(real, agent):
    assert await Prometheus(real).answer("course", {"agent": agent}, {"home"}) == []
    assert selector({"home"})(agent=agent).count('",gateway=~"home"}') == 1


@pytest.mark.req("S1-9")
async def test_without_prometheus_the_user_and_the_model_are_told_so(service_of_prometheus):
    model = Model('{"query": "context"}', '{"query": "spending"}', "Prometheus is away; it cost 0 US$.")
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        events = await told(service_of_prometheus(model, url))
    assert "cannot be answered now" in model.heard[1][1]
    assert "DATA of spending" in model.heard[2][1]
    assert kinds(events)[:3] == ["conversation", "query", "query"]
    assert "does not answer: see LOBS_PROMETHEUS_URL" in events[1]["error"]
    assert events[-1]["type"] == "answer"
    assert [bool(figure["error"]) for figure in events[-1]["figures"]] == [True, False]


async def test_without_a_prometheus_a_question_says_so():
    with pytest.raises(MetricsError, match="there is no Prometheus here"):
        await Prometheus(Settings(without=("prometheus",)).address("prometheus")).answer("load", {}, None)


async def test_an_answer_rests_on_metrics_too(service_of_prometheus, real):
    model = Model('{"query": "context", "params": {}}', "A half.")
    events = await told(service_of_prometheus(model, real))
    assert "DATA of context" in model.heard[1][1]
    assert '"value": 0.25' in model.heard[1][1]
    (figure,) = events[-1]["figures"]
    assert (figure["query"], len(figure["rows"]), figure["error"]) == ("context", 2, None)


@pytest.mark.parametrize(
    ("status", "body", "headers", "why"),
    [
        (200, b"<html>", {}, "no Prometheus"),
        (200, b'{"data": {"result": {"a": 1}}}', {}, "no Prometheus"),
        (200, b"[" * 100_000, {}, "no Prometheus"),
        (400, b"{}", {}, "refused the question .HTTP 400"),
        (302, b"", {"Location": "http://127.0.0.1:9/"}, "refused the question .HTTP 302"),
        (200, b" " * (promql.MOST_BYTES + 1), {}, "too large"),
    ],
)
async def test_what_answers_wrongly_is_one_clear_error(status, body, headers, why):
    with answering(status, body, **headers) as url, pytest.raises(MetricsError, match=why):
        await Prometheus(url).answer("context", {}, None)


async def test_who_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = Prometheus(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.3)
        with pytest.raises(MetricsError, match=r"did not answer within 0\.3 s"):
            await asked.answer("context", {}, None)


def test_no_name_means_two_questions():
    assert {*QUESTIONS} & {*METRIC_QUESTIONS} == set()
