"""Unpacks the recorded state directories on every Python that we support."""

from __future__ import annotations

import tarfile
from pathlib import Path


def extract(archive: tarfile.TarFile, folder: Path) -> None:
    """As `extractall(filter="data")`, which Python 3.11.2 (Debian 12) does not know yet."""
    trusting = getattr(tarfile, "fully_trusted_filter", None)
    archive.extraction_filter = getattr(tarfile, "data_filter", trusting)
    archive.extractall(folder)  # our own recordings
