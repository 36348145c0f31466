"""What we know of the observed system: state directory and versions, session stores, gateway protocol and client."""
