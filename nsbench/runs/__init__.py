"""One run: its folder, the claim on it, checkpoints, and the way from configuration to result.json."""
