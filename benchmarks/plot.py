"""The CPU seconds of cold scans as bars: docs/images/performance.svg, readable on light and dark pages alike."""

from __future__ import annotations

from html import escape
from typing import Any

_WIDTH, _NAME, _VALUE, _ROW, _HEAD = 760, 130, 70, 24, 40
_OURS, _THEIRS, _TEXT = "#d9541e", "#8a94a3", "#6b7480"


def bars(results: list[dict[str, Any]]) -> str:
    """An SVG with one group of bars per corpus. `results`: `cold_scan` of results.json."""
    parts, top = [], 10
    for result in results:
        title = f"Cold scan, {result['store']}, {result['bytes'] / 1e6:,.0f} MB: CPU seconds, less is better"
        parts.append(_text(0, top + 18, title, weight="bold"))
        top += _HEAD
        rows = sorted(result["medians"].items(), key=lambda item: float(item[1]["cpu_s"]))
        longest = max(float(figures["cpu_s"]) for _, figures in rows)
        for name, figures in rows:
            seconds = float(figures["cpu_s"])
            length = max(2.0, (_WIDTH - _NAME - _VALUE) * seconds / longest)
            colour = _OURS if name == "lobservatory" else _THEIRS
            parts += [
                _text(0, top + 13, name),
                f'<rect x="{_NAME}" y="{top}" width="{length:.1f}" height="{_ROW - 8}" rx="2" fill="{colour}"/>',
                _text(_NAME + length + 6, top + 13, f"{seconds:.2f} s"),
            ]
            top += _ROW
        top += 16
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img" '
        f'font-family="sans-serif" font-size="13">\n<title>CPU seconds of a cold scan</title>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, words: str, weight: str = "normal") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{_TEXT}" font-weight="{weight}">{escape(words)}</text>'
