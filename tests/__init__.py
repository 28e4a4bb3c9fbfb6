"""The tests: pure ones, steps on verified fakes, and everything once more on real servers."""
