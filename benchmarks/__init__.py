"""Benchmarks of pykv against the disk, dict and its peers: `python -m benchmarks --help`."""
