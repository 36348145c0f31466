"""The fixtures of the exporter's tests."""

from tests.lab import call, files_dir, lab, life, make_ledger, state_dir, transcript

__all__ = ["call", "files_dir", "lab", "life", "make_ledger", "state_dir", "transcript"]
