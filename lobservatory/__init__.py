"""Lobservatory: observability for OpenClaw gateways."""

from importlib.metadata import version

__version__ = version("lobservatory")
