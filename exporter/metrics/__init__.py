"""What `/metrics` shows and who serves it."""
