"""The fixtures of commands that work over what an exporter has made."""

from tests.lab import call, files_dir, lab, life, transcript

__all__ = ["call", "files_dir", "lab", "life", "transcript"]
