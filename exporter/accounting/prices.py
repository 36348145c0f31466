"""What a call costs when its entry does not say.

In this order: the user's own file, the gateway's configuration (`models.providers.*.models[].cost`), the dated table
beside this module. Prices are US dollars per million tokens. Every priced row keeps the version of its price.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from importlib import resources
from pathlib import Path
from typing import Any

from exporter.accounting.usage import Usage
from lobservatory.errors import LobservatoryError
from openclaw.state_dir import ModelPrice

_ONE_HOUR = Decimal(2)  # times the input price: cache writes that live for an hour
_FIVE_MINUTES = Decimal("1.25")
_WIDE = Context(prec=200)  # prices may have any number of digits, and money is exact
_DATED = re.compile(r"-(?:\d{8}|\d{4}-\d{2}-\d{2}|latest)$")
_LARGEST = 1_000_000  # a dollar a token
_SMALLEST = -30  # digits behind the point; beyond them no money is
_CLASSES = ("input", "output", "cache_read", "cache_write")


class PricesError(LobservatoryError):
    """A file of prices cannot be used. The text is one line: which file and place, what is wrong, what to do."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens by class; None: not known. `version` names the source and its state."""

    version: str
    input: Decimal | None
    output: Decimal | None
    cache_read: Decimal | None
    cache_write: Decimal | None

    @property
    def cache_write_1h(self) -> Decimal | None:
        """Of cache writes that live for an hour."""
        return None if self.input is None else self.input * _ONE_HOUR

    @property
    def cache_write_5m(self) -> Decimal | None:
        """Of cache writes that live for five minutes, where an entry tells so."""
        return None if self.input is None else self.input * _FIVE_MINUTES

    def cost(self, usage: Usage) -> Decimal | None:
        """US dollars, exact; None when tokens of a class have no price."""
        told = usage.cache_write_1h + usage.cache_write_5m
        parts = (
            (usage.input, self.input),
            (usage.output, self.output),
            (usage.cache_read, self.cache_read),
            (usage.cache_write - told, self.cache_write),
            (usage.cache_write_1h, self.cache_write_1h),
            (usage.cache_write_5m, self.cache_write_5m),
        )
        cost = Decimal(0)
        for tokens, price in parts:
            if not tokens:
                continue
            if price is None:
                return None
            # Not a division, which might not be exact.
            cost = _WIDE.add(cost, _WIDE.scaleb(_WIDE.multiply(Decimal(tokens), price), -6))
        return cost


class PriceBook:
    """Prices by provider and model."""

    def __init__(self, *layers: Mapping[tuple[str, str], Price]) -> None:
        self._layers = layers
        self._cache: dict[tuple[str, str], Price | None] = {}

    def price(self, provider: str, model: str) -> Price | None:
        """The price of a model; a dated name (`…-20250929`) falls back to the undated one within the same source."""
        name = (provider, model)
        if name not in self._cache:
            self._cache[name] = self._find(provider, model)
        return self._cache[name]

    def _find(self, provider: str, model: str) -> Price | None:
        undated = _DATED.sub("", model)
        for layer in self._layers:
            found = layer.get((provider, model)) or layer.get((provider, undated))
            if found is not None:
                return found
        return None


def price_book(configured: Iterable[ModelPrice] = (), own_file: Path | None = None) -> PriceBook:
    """All sources together. Raises PricesError when the user's own file is wrong."""
    try:
        own = {} if own_file is None else load_prices(_read(own_file), str(own_file))
    except PricesError as error:
        raise PricesError(f"LOBS_PRICES_FILE: {error}") from error
    return PriceBook(own, from_config(configured), table())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PricesError(f"{path} cannot be read: {error.strerror}") from error


def from_config(configured: Iterable[ModelPrice]) -> dict[tuple[str, str], Price]:
    """The prices of `openclaw.json`; their version is a hash, so that a change of price is another version."""
    prices = {}
    for entry in configured:
        values = (entry.input, entry.output, entry.cache_read, entry.cache_write)
        digest = hashlib.blake2b(repr(values).encode(), digest_size=4).hexdigest()
        prices[entry.provider, entry.model] = Price(f"openclaw.json:{digest}", *values)
    return prices


def table() -> dict[tuple[str, str], Price]:
    """The dated table that comes with this version."""
    return load_prices(resources.files("exporter.accounting").joinpath("prices.toml").read_bytes(), "prices.toml")


def load_prices(text: bytes, name: str) -> dict[tuple[str, str], Price]:
    """Rows `[[price]]` with providers, models, the four classes, source and date. Raises PricesError.

    Of several rows for one model the newest date counts, and of equal dates the later row.
    """
    try:
        document = tomllib.loads(text.decode("utf-8"), parse_float=Decimal)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PricesError(f"{name}: not valid TOML: {error}") from error
    rows = document.get("price", [])
    if not isinstance(rows, list):
        raise PricesError(f"{name}: rows of prices are written as [[price]]")
    prices: dict[tuple[str, str], Price] = {}
    dates: dict[tuple[str, str], str] = {}
    for number, row in enumerate(rows, 1):
        place = f"{name}: [[price]] number {number}"
        price = _row(row, place)
        for provider in _names(row, "providers", place):
            for model in _names(row, "models", place):
                if str(row["date"]) >= dates.get((provider, model), ""):
                    prices[provider, model], dates[provider, model] = price, str(row["date"])
    return prices


def _row(row: Any, place: str) -> Price:
    if not isinstance(row, dict):
        raise PricesError(f"{place}: not a table")
    unknown = row.keys() - {"providers", "models", "source", "date", *_CLASSES}
    if unknown:
        raise PricesError(f"{place}: unknown key {min(unknown)!r}")
    values = []
    for name in _CLASSES:
        value = row.get(name)
        if value is not None and not _is_price(value):
            raise PricesError(f"{place}: {name} must be a number of US dollars per million tokens, from 0 to 1000000")
        values.append(None if value is None else Decimal(value))
    if not row.get("source") or not row.get("date"):
        raise PricesError(f"{place}: source and date are missing: say where the price is from and of which day")
    return Price(f"{row['source']}@{row['date']}", *values)


def _is_price(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return False
    price = Decimal(value)
    if not price.is_finite() or not 0 <= price <= _LARGEST:
        return False
    exponent = price.normalize(_WIDE).as_tuple().exponent
    return isinstance(exponent, int) and exponent >= _SMALLEST


def _names(row: Mapping[str, Any], key: str, place: str) -> list[str]:
    names = row.get(key)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise PricesError(f"{place}: {key} must be a list of names")
    return names
