"""What to say of a gateway that cannot be used, in the words of `up` and of `doctor`."""

from __future__ import annotations

# By the reason that `openclaw.client.stats.failure_reason` names.
_REMEDIES = {
    "unreachable": "nothing listens there. Start the gateway, or set LOBS_GATEWAY_URL",
    "auth": "it refuses the token. Set LOBS_GATEWAY_TOKEN to `gateway.auth.token` of its openclaw.json",
    "timeout": "it does not answer. Look at the gateway's log; something else may listen on that port",
    "handshake": "what listens there is no gateway. Correct LOBS_GATEWAY_URL",
    "protocol": "it speaks a protocol that we do not know. Upgrade Lobservatory",
    "starting": "it is still starting. Try again in a moment",
}
_STATES = {
    "auth": "refused",
    "refused": "refused",
    "protocol": "refused",
    "handshake": "no gateway",
    "starting": "starting",
}


def remedy(reason: str, *, token: bool) -> str:
    """What to do. `token`: whether there was one to show."""
    if reason == "auth" and not token:
        return "it wants a token. Set LOBS_GATEWAY_TOKEN"
    return _REMEDIES.get(reason, "look at the gateway's log")


def state(reason: str) -> str:
    """One or two words for the table."""
    return _STATES.get(reason, "not answering")
