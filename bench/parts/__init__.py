"""The parts of the benchmark: `bench/run`, `bench/grow` and `bench/plot` put them together."""
