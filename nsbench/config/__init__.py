"""What a run is: protocol, components and their options, checked before any work."""

BESIDE = ("id", "proposed", "reads", "called")  # of a run's record: what follows from the rest of it, outside of the id
