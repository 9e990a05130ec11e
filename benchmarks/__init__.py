"""What the library costs, beside what people use instead and beside the floor: `python -m benchmarks --help`."""
