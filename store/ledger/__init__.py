"""What must be kept together or not at all: the contract of a ledger, and the two that keep it."""
