"""The real Alertmanager with our configuration and template, and a fake Slack behind it."""

from __future__ import annotations

import itertools
import re
import subprocess
import urllib.parse
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from cli.up.monitoring import ALERTMANAGER, ALERTS, prepare_alertmanager
from lobservatory.errors import SettingsError
from lobservatory.settings import Settings, load
from tests.alerts.stack import fast_alertmanager
from tests.alerts.test_alert_rules import NAMES, silenced_by
from tests.fakes.slack import CONTROL, PATH, fake_slack
from tests.servers import wait_for
from tests.tools import debian_tool

HOSTILE = [
    "<!channel>",
    "<https://evil.example|Board>",
    "a & b < c > d",
    "`*bold*` _it_ ~no~ ```x```",
    "line\nbreak\r\n• fake",
    "rtl\u202eevil\u2066\u200b",
    "https://evil.example/auto",
    '"}, {"a": "',
    "{{ .ExternalURL }}",
    "🦞" * 200,
    "x" * 10_000,
]
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def slack():
    with fake_slack() as server:
        yield server


@pytest.fixture(scope="module")
def alerts(slack, tmp_path_factory):
    with fast_alertmanager(
        tmp_path_factory.mktemp("am"),
        slack.url,
        grafana_url="https://grafana.example/",
        runbook_url="https://books.example/runbooks",
        alertmanager_url="https://am.example",
    ) as server:
        yield server


@pytest.fixture
def gateway():
    """A name of this test alone, so that one Alertmanager serves all tests."""
    return f"gw{next(numbers)}"


LONG_AGO = datetime(2026, 11, 20, 21, 5, tzinfo=UTC)


def alert(
    alertname,
    gateway,
    severity="warning",
    /,
    *,
    summary="Something",
    description="3 of 2",
    since=None,
    over=False,
    **labels,
):
    """As Prometheus sends it. Only an alert that comes alone may be `since` long ago.

    Alertmanager takes alerts in one by one, and sends a group at once when its first one began before `group_wait`.
    """
    now = datetime.now(UTC)
    return {
        "labels": {"alertname": alertname, "gateway": gateway, "severity": severity, **labels},
        "annotations": {
            "summary": summary,
            "description": description,
            "action": "Look at it.",
            "board": "/d/lobs-overview",
            "runbook": f"alerts/runbooks/{alertname}.md",
        },
        "startsAt": (since or now).isoformat(),
        "endsAt": (now if over else now + timedelta(minutes=5)).isoformat(),
    }


def about(gateway):
    return lambda messages: [message for message in messages if message.title.endswith(f"· {gateway}")]


def received(slack, gateway, number=1):
    of_gateway = about(gateway)
    return of_gateway(slack.wait(lambda messages: len(of_gateway(messages)) >= number))


def grouped(slack, gateway, alertname, number):
    """The message that tells of so many alerts.

    On a busy machine one of fewer may come before it: a group is sent while Alertmanager still takes its alerts in.
    """

    def these(messages):
        return [
            message
            for message in about(gateway)(messages)
            if message.attachment["footer"].startswith(f"{alertname} ")
            and message.title == f"🟠 Something{f' ({number})' if number > 1 else ''} · {gateway}"
        ]

    return these(slack.wait(these))[0]


def test_message_reads_well(alerts, slack, gateway):
    alerts.send(
        [
            alert(
                "CronJobFailing",
                gateway,
                summary="A cron job fails",
                description="3 failed runs in a row; the threshold is 2.",
                since=LONG_AGO,
                cron_job="j1",
                name="backup",
                agent="main",
            )
        ]
    )
    (message,) = received(slack, gateway)
    assert message.title == f"🟠 A cron job fails · {gateway}"
    assert message.attachment["fallback"] == message.title
    assert message.attachment["color"] == "warning"
    assert message.attachment["footer"] == "CronJobFailing · warning"
    assert message.attachment["title_link"] == f"https://grafana.example/d/lobs-overview?var-gateway={gateway}"
    silence = urllib.parse.quote(f'{{alertname="CronJobFailing",gateway="{gateway}"}}', safe="")
    assert message.text.splitlines() == [
        "3 failed runs in a row; the threshold is 2.",
        "agent `main` cron_job `j1` name `backup` since 21:05 UTC, Fri 20 Nov",
        "→ Look at it.",
        (
            f"<https://grafana.example/d/lobs-overview?var-gateway={gateway}|Board> · "
            "<https://books.example/runbooks/CronJobFailing.md|Runbook> · "
            f"<https://am.example/#/silences/new?filter={silence}|Silence>"
        ),
    ]


def test_without_a_grafana_no_message_links_to_one(slack, gateway, tmp_path):
    with fast_alertmanager(tmp_path, slack.url, without=["grafana"]) as server:
        server.send([alert("ChannelDown", gateway, since=LONG_AGO, channel="irc")])
        received(slack, gateway)
        server.send([alert("ChannelDown", gateway, since=LONG_AGO, over=True, channel="irc")])
        fired, resolved = received(slack, gateway, 2)
    assert list(fired.links) == ["Runbook", "Silence"]
    assert fired.text.splitlines()[-1].startswith("<http://127.0.0.1:8787/runbooks/ChannelDown.md|Runbook> · <http")
    assert resolved.text.splitlines()[-1] == "<http://127.0.0.1:8787/runbooks/ChannelDown.md|Runbook>"
    for message in (fired, resolved):
        assert not message.attachment.get("title_link")
        assert ":3000" not in str(message.payload)


@pytest.mark.req("S1-7")
def test_alerts_of_a_kind_and_gateway_are_one_message(alerts, slack, gateway):
    other = f"{gateway}-b"
    alerts.send(
        [alert("ChannelDown", gateway, channel=f"c{number}") for number in range(3)]
        + [alert("ChannelDown", other, channel="c0"), alert("ToolFailures", gateway, tool="web")]
    )
    message = grouped(slack, gateway, "ChannelDown", 3)
    assert re.findall(r"channel `(c\d)`", message.text) == ["c0", "c1", "c2"]
    assert "tool `web`" in grouped(slack, gateway, "ToolFailures", 1).text
    assert re.findall(r"channel `(c\d)`", grouped(slack, other, "ChannelDown", 1).text) == ["c0"]


def test_resolution_is_told_once_and_by_name(alerts, slack, gateway):
    alerts.send([alert("ChannelDown", gateway, since=LONG_AGO, channel="irc")])
    received(slack, gateway)
    alerts.send([alert("ChannelDown", gateway, since=LONG_AGO, over=True, channel="irc")])
    fired, resolved = received(slack, gateway, 2)
    assert fired.title == f"🟠 Something · {gateway}"
    assert resolved.title == f"✅ Resolved: Something · {gateway}"
    assert resolved.attachment["color"] == "good"
    assert re.search(r"✅ channel `irc` over at \d\d:\d\d UTC, since 21:05 UTC, Fri 20 Nov", resolved.text)
    assert "Silence" not in resolved.links


def test_many_alerts_are_cut(alerts, slack, gateway):
    alerts.send([alert("ChannelDown", gateway, channel=f"c{number:02}") for number in range(30)])
    message = grouped(slack, gateway, "ChannelDown", 30)
    assert message.text.count("channel `c") == 8
    assert "… and more, 30 in all" in message.text


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_stay_names(alerts, slack, gateway, name):
    alerts.send([alert("ContextNearLimit", gateway, agent=name, description=name, summary=name)])
    of_gateway = about(gateway)
    (message,) = of_gateway(slack.wait(lambda messages: len(of_gateway(messages)) >= 1))
    assert not slack.refused
    assert set(message.links) == {"Board", "Runbook", "Silence"}
    assert all(
        address.startswith(("https://grafana.", "https://books.", "https://am.")) for address in message.links.values()
    )
    assert not CONTROL.search(message.title)
    assert "\n" not in message.title
    assert len(message.text.splitlines()) == 4
    values = message.text.splitlines()[1]
    assert values.count("`") == 2, "the name is one code span"
    assert len(message.text) < 2_000
    for invisible in "\u202e\u2066\u200b\r":
        assert invisible not in message.title + message.text


def test_hostile_gateway_makes_a_filter_that_means_it(alerts, slack):
    name = 'my "gate" + \\ & <b>'
    alerts.send([alert("GatewayNotReady", name)])
    title = '🟠 Something · my "gate" + \\ &amp; &lt;b&gt;'
    (message,) = [m for m in slack.wait(lambda all_: any(m.title == title for m in all_)) if m.title == title]
    encoded = message.links["Silence"].partition("filter=")[2]
    assert "+" not in encoded
    assert urllib.parse.unquote(encoded) == '{alertname="GatewayNotReady",gateway="my \\"gate\\" + \\\\ & <b>"}'


SOURCES = {"GatewayDown", "ExporterDown", "DatabaseDown"}  # they silence others


def states(alerts, gateway):
    return {
        (one["labels"]["alertname"], one["labels"].get("mountpoint", "")): one["status"]["state"]
        for one in alerts.alerts()
        if one["labels"].get("gateway") == gateway
    }


@pytest.mark.parametrize(
    ("source", "silenced", "heard"),
    [
        (
            "GatewayDown",
            sorted(silenced_by("GatewayDown")),
            sorted(set(NAMES) - silenced_by("GatewayDown") - SOURCES),
        ),
        (
            "ExporterDown",
            sorted(silenced_by("ExporterDown")),
            ["Watchdog"],
        ),
        ("DatabaseDown", ["IngestFailing", "SourceStale"], ["SchemaUnknown"]),
    ],
    ids=["GatewayDown", "ExporterDown", "DatabaseDown"],
)
def test_inhibition(alerts, slack, gateway, *, source, silenced, heard):
    alerts.send([alert(source, gateway, "critical")])
    received(slack, gateway)
    other = f"{gateway}-b"
    alerts.send([alert(name, gateway) for name in silenced + heard])
    alerts.send([alert(name, other) for name in silenced + heard if name not in SOURCES])
    expected = {(name, ""): "suppressed" for name in silenced} | {(name, ""): "active" for name in heard}
    expected[source, ""] = "active"
    wait_for(lambda: states(alerts, gateway) == expected, f"states {expected}")
    assert set(states(alerts, other).values()) == {"active"}, "another gateway is not touched"


def test_critical_silences_the_warning_of_the_same_thing(alerts, slack, gateway):
    alerts.send([alert("HostDiskFull", gateway, "critical", mountpoint="/")])
    received(slack, gateway)
    alerts.send([alert("HostDiskFull", gateway, mountpoint=point) for point in ("/", "/data")])

    def by_severity():
        return {
            (one["labels"]["severity"], one["labels"]["mountpoint"]): one["status"]["state"]
            for one in alerts.alerts()
            if one["labels"].get("gateway") == gateway
        }

    expected = {("critical", "/"): "active", ("warning", "/"): "suppressed", ("warning", "/data"): "active"}
    wait_for(lambda: by_severity() == expected, f"states {expected}")


def test_what_still_fires_after_slack_was_away_arrives_once(slack, alerts, gateway):
    slack.down = True
    try:
        before = slack.failed
        alerts.send([alert("ChannelDown", gateway, channel="irc")])
        slack.wait_failed(before + 3)
        assert not about(gateway)(slack.messages)
    finally:
        slack.down = False
    received(slack, gateway)
    # A later message of another group proves that the first was not repeated meanwhile.
    sentinel = f"{gateway}-later"
    alerts.send([alert("ChannelDown", sentinel, channel="irc")])
    received(slack, sentinel)
    assert len(about(gateway)(slack.messages)) == 1


def test_watchdog_is_no_message(slack, alerts, gateway):
    alerts.send([alert("Watchdog", gateway, "none"), alert("ChannelDown", gateway, channel="x")])
    received(slack, gateway)
    (watchdog,) = [
        a for a in alerts.alerts() if a["labels"]["alertname"] == "Watchdog" and a["labels"]["gateway"] == gateway
    ]
    assert watchdog["receivers"] == [{"name": "watchdog"}]


# --- the files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("webhook", ["", f"https://hooks.example{PATH}"])
def test_configuration_is_valid(tmp_path, webhook):
    settings = Settings(slack_webhook_url=webhook)
    config = prepare_alertmanager(tmp_path, settings, {})
    checked = subprocess.run(
        [debian_tool("amtool"), "check-config", config], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert ("slack_url" in {path.name for path in tmp_path.iterdir()}) == bool(webhook)


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ({"alertname": "Watchdog", "severity": "none"}, "watchdog"),
        ({"alertname": "GatewayDown", "severity": "critical"}, "history,slack"),
        ({"alertname": "ApprovalPending", "severity": "warning"}, "history,slack"),
        ({"alertname": "Anything"}, "history,slack"),
    ],
)
def test_routes(labels, receiver):
    command = [debian_tool("amtool"), "config", "routes", "test", f"--config.file={ALERTMANAGER / 'alertmanager.yml'}"]
    tried = subprocess.run(
        [*command, *(f"{name}={value}" for name, value in labels.items())],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert tried.stdout.strip() == receiver, tried.stderr


def test_both_configurations_inhibit_and_group_alike():
    with_slack, without = (
        yaml.safe_load((ALERTMANAGER / name).read_text())
        for name in ("alertmanager.yml", "alertmanager-without-slack.yml")
    )
    assert with_slack["inhibit_rules"] == without["inhibit_rules"]
    assert with_slack["route"]["group_by"] == without["route"]["group_by"]


def test_template_uses_only_functions_of_the_oldest_alertmanager():
    """0.25 has these besides the language's own; `since`, `date`, `tz`, `humanizeDuration` and `toJson` came later."""
    known = {"reReplaceAll", "stringSlice", "printf", "urlquery", "len", "gt", "lt", "eq"}
    words = {"define", "template", "end", "if", "else", "with", "range"}
    text = (ALERTS / "slack.tmpl").read_text() + (ALERTMANAGER / "links.tmpl").read_text()
    text = re.sub(r"\{\{/\*.*?\*/\}\}", "", text, flags=re.DOTALL)
    used = set()
    for action in re.findall(r"\{\{(.*?)\}\}", text, flags=re.DOTALL):
        bare = re.sub(r'"(?:[^"\\]|\\.)*"|[$.][\w.$]*|\d+', " ", action)
        used |= set(re.findall(r"[A-Za-z]\w*", bare))
    assert used - words <= known


@pytest.mark.parametrize("wrong", ["hooks.slack.com/T0/SECRET", "https://", "https:///SECRET", "https://a b/SECRET"])
def test_a_wrong_webhook_is_named_but_not_shown(wrong):
    with pytest.raises(SettingsError, match="LOBS_SLACK_WEBHOOK_URL") as refused:
        load({"LOBS_SLACK_WEBHOOK_URL": wrong})
    assert "SECRET" not in str(refused.value)


def test_secrets_are_private(tmp_path):
    prepare_alertmanager(tmp_path, Settings(slack_webhook_url="https://hooks.example/x"), {})
    assert (tmp_path / "slack_url").stat().st_mode & 0o777 == 0o600
    prepare_alertmanager(tmp_path, Settings(), {})
    assert not (tmp_path / "slack_url").exists()
