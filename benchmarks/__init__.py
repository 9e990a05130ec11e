"""The library's cost, compared with its alternatives and with the floor: `python -m benchmarks --help`."""
