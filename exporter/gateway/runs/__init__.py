"""Operations, agent events and agent states, derived from what the gateway pushes and from what polls tell."""
