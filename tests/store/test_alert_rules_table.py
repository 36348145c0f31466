"""The view `alert_rules`: what this version ships, also after an upgrade that dropped a rule."""

import psycopg
import pytest
import yaml

from store import alert_rules
from store.migrate import migrate


def test_of_an_alert_with_two_severities_the_worse_is_kept(tmp_path):
    def rule(severity, summary):
        return {"alert": "A", "labels": {"severity": severity}, "annotations": {"summary": summary}}

    document = {"groups": [{"rules": [rule("critical", "over"), {"record": "r"}, rule("warning", "near")]}]}
    (tmp_path / "lobs-a.yml").write_text(yaml.safe_dump(document))
    (tmp_path / "others.yml").write_text("groups: [{rules: [{alert: NotOurs}]}]")
    assert alert_rules.shipped(tmp_path) == [alert_rules.AlertRule("A", "critical", "over")]


@pytest.mark.req("S1-15")
def test_a_migration_notes_the_rules_of_this_version_and_keeps_the_words_of_older_ones(postgres_owner_dsn):
    with psycopg.connect(postgres_owner_dsn, autocommit=True) as connection:
        query = 'SELECT alert, severity, summary, enabled FROM public.alert_rules ORDER BY alert COLLATE "C"'
        ours = [(rule.alert, rule.severity, rule.summary, True) for rule in alert_rules.shipped()]
        assert connection.execute(query).fetchall() == ours
        assert ("GatewayDown", "critical", "The gateway does not answer", True) in ours

        connection.execute("INSERT INTO lobs.alert_rules VALUES ('Dropped', 'info', 'as it was', true)")
        connection.execute("UPDATE lobs.alert_rules SET summary = 'other words' WHERE alert = 'GatewayDown'")
        written = connection.execute("SELECT max(updated_at) FROM lobs.alert_rules WHERE alert = 'ChannelDown'")
        before = written.fetchone()
        migrate(postgres_owner_dsn)
        assert connection.execute(query).fetchall() == sorted([*ours, ("Dropped", "info", "as it was", False)])
        again = connection.execute("SELECT max(updated_at) FROM lobs.alert_rules WHERE alert = 'ChannelDown'")
        assert again.fetchone() == before, "what did not change is not written"
