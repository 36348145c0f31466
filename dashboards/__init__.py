"""Builds the Grafana dashboards; the JSON is committed beside the code that builds it.

Layers, each importing only those above it: `config` (names, uids, colours), `queries`, `variables` and
`events`, `panels` (what every panel of a kind has in common), `board` (layout and defaults of a board),
`boards/` (one file per board; a panel is a function named for what it shows).
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # The SDK prefers the dashboard schema v2, which only Grafana 13 provisions from files; the classic one works
    # from Grafana 10 on. It says so whenever the module is imported, so it is imported once, here.
    warnings.simplefilter("ignore", DeprecationWarning)
    import grafana_foundation_sdk.models.dashboard  # noqa: F401 - imported for the next importers
