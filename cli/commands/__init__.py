"""One file a command; what it takes more than a screen to do lies beside it in this room."""
