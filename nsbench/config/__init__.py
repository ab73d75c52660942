"""What a run is: protocol, components and their options, checked before any work."""

# Of a run's record, outside of the id: what follows from the rest of it, or depends on the machine.
BESIDE = ("id", "protocol_digest", "proposed", "reads", "called", "feature_bytes")
