"""The benchmark behind `scripts/bench`: what is measured is in `measures`, what it is measured with is beside it."""
