"""Many runs: plans, sweeps, the engines that carry them out, and what they will cost."""
