"""From a configuration and data to a trained and ranked model: trainer, losses, evaluation, diagnostics."""
