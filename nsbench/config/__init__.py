"""What a run is: protocol, components and their options, checked before any work."""

BESIDE = ("id", "proposed", "reads", "called", "feature_bytes")  # of a run's record: what follows from the rest of it, or of the machine, outside of the id
