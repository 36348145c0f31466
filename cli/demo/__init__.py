"""The demo: recorded data played back live, and a small gateway that answers from recordings."""
