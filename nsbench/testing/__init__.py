"""The battery that every sampler passes, built in or not."""
