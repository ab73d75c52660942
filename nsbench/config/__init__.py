"""What a run is: protocol, components and their options, checked before any work."""
