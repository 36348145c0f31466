"""Any prices, any calls: the money of a scan is that of an independent account in fractions."""

from __future__ import annotations

import json
import re
import tempfile
from fractions import Fraction
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.accounting import BillingPolicy, PriceBook
from exporter.accounting.prices import from_config, load_prices
from exporter.ingest.scan import scan
from lobservatory.settings import Billing
from openclaw.state_dir import load_config

CLASSES = ("input", "output", "cache_read", "cache_write")
FIELDS = ("input", "output", "cacheRead", "cacheWrite")
PROVIDERS = ("p", "q", "sub")
MODELS = ("m", "m-20260101", "m-2026-01-01", "n", "n-latest")

amounts = st.one_of(st.none(), st.decimals(0, 900, places=9), st.decimals(0, 1, places=24), st.integers(0, 1000))
price_rows = st.fixed_dictionaries(
    {
        "providers": st.lists(st.sampled_from(PROVIDERS), min_size=1, max_size=2, unique=True),
        "models": st.lists(st.sampled_from(MODELS), min_size=1, max_size=2, unique=True),
        "date": st.dates().map(str),
        "prices": st.tuples(*[amounts] * 4),
    }
)
configured = st.dictionaries(
    st.tuples(st.sampled_from(PROVIDERS), st.sampled_from(MODELS)),
    st.tuples(*[st.one_of(st.none(), st.integers(0, 500), st.decimals(0, 100, places=6))] * 4),
    max_size=4,
)
tokens = st.one_of(st.just(0), st.integers(0, 10**12), st.integers(0, 100_000))
calls = st.fixed_dictionaries(
    {
        "provider": st.sampled_from(PROVIDERS),
        "model": st.sampled_from(MODELS),
        "tokens": st.tuples(tokens, tokens, tokens, tokens),
        "hour": st.integers(0, 100_000),
        "minutes": st.integers(0, 100_000),
        "cost": st.one_of(st.none(), st.just(-1), st.decimals(0, 1000, places=12)),
    }
)


def own_file(rows):
    return "".join(
        f'[[price]]\nproviders = {row["providers"]!r}\nmodels = {row["models"]!r}\nsource = "s"\ndate = {row["date"]}\n'
        + "".join(
            f"{name} = {price:f}\n" for name, price in zip(CLASSES, row["prices"], strict=True) if price is not None
        )
        for row in rows
    )


def config_file(entries):
    providers = {}
    for (provider, model), prices in entries.items():
        cost = {name: f"@{price:f}@" for name, price in zip(FIELDS, prices, strict=True) if price is not None}
        providers.setdefault(provider, {"models": []})["models"].append({"id": model, "cost": cost})
    return re.sub('"@(.*?)@"', r"\1", json.dumps({"models": {"providers": providers}}))


def line(number, call):
    usage = dict(zip(FIELDS, call["tokens"], strict=True))
    usage |= {"cacheWrite1h": call["hour"], "cacheWrite5m": call["minutes"]}
    message = {"role": "assistant", "provider": call["provider"], "model": call["model"], "usage": usage}
    if call["cost"] is not None:
        usage["cost"] = {"total": f"@{call['cost']:f}@"}
    entry = {"type": "message", "id": f"e{number}", "timestamp": "2026-11-20T10:00:00.000Z", "message": message}
    return re.sub('"@(.*?)@"', r"\1", json.dumps(entry)) + "\n"


def layer_price(layer, provider, model):
    undated = re.sub(r"-(\d{8}|\d{4}-\d\d-\d\d|latest)$", "", model)
    for name in (model, undated):
        if (provider, name) in layer:
            return layer[provider, name]
    return None


def account(rows, entries, called):
    """(billed, equivalent, calls without money), of the rules as they are written, one after another."""
    newest = {}
    for row in rows:
        for provider in row["providers"]:
            for model in row["models"]:
                if (provider, model) not in newest or row["date"] >= newest[provider, model][0]:
                    newest[provider, model] = row["date"], row["prices"]
    layers = [{name: prices for name, (_, prices) in newest.items()}]
    layers.append({name: prices for name, prices in entries.items() if any(price is not None for price in prices)})
    money, unpriced = {"billed": Fraction(0), "equivalent": Fraction(0)}, 0
    for call in called:
        mode = "equivalent" if call["provider"] == "sub" else "billed"
        if call["cost"] is not None and call["cost"] >= 0:
            money[mode] += Fraction(call["cost"])
            continue
        one, two, read, write = call["tokens"]
        if call["cost"] is not None:  # refused: neither believed nor replaced
            unpriced += one + two + read + write > 0
            continue
        hour = min(call["hour"], write)
        minutes = min(call["minutes"], write - hour)
        prices = next(
            (found for layer in layers if (found := layer_price(layer, call["provider"], call["model"]))), None
        )
        prices = prices or (None,) * 4
        per_token = (*prices, None if prices[0] is None else 2 * Fraction(prices[0]), None)
        per_token = (*per_token[:5], None if prices[0] is None else Fraction(5, 4) * Fraction(prices[0]))
        used = [
            (n, p) for n, p in zip((one, two, read, write - hour - minutes, hour, minutes), per_token, strict=True) if n
        ]
        if any(price is None for _, price in used):
            unpriced += 1
        else:
            money[mode] += sum((n * Fraction(price) for n, price in used), Fraction(0)) / 10**6
    return money["billed"], money["equivalent"], unpriced


@settings(max_examples=150, deadline=None)
@given(st.lists(price_rows, max_size=5), configured, st.lists(calls, max_size=8))
def test_any_prices_give_the_money_of_an_independent_account(rows, entries, called):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "openclaw.json").write_text(config_file(entries))
        sessions = root / "agents" / "main" / "sessions"
        sessions.mkdir(parents=True)
        (sessions / "s.jsonl").write_text("".join(line(number, call) for number, call in enumerate(called)))
        config = load_config(root, environment={})
        assert config.problem is None
        book = PriceBook(load_prices(own_file(rows).encode(), "own"), from_config(config.prices))
        result = scan(root, prices=book, billing=BillingPolicy(Billing(equivalent=("sub",), billed=())), workers=1)
    shown = Fraction(result.total.billed), Fraction(result.total.equivalent), result.unpriced_calls
    assert shown == account(rows, entries, called)
