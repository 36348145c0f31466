"""What the gateway pushes and answers: events become operations, runs, agents' states and traces."""
