"""Lobservatory: observability for OpenClaw gateways."""


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - takes its time, and few ask

        return version("lobservatory")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
