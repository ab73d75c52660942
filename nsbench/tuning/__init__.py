"""Equal budgets for every sampler: searches for options by validation."""
