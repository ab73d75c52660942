"""What several samplers are made of."""
