"""How fast samplers and models are, measured in turns with what they are compared with."""
