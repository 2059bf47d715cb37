"""What holds for every test: plots need no screen, TensorFlow is quiet, Hypothesis is not timed."""

import os

import hypothesis

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# The machines are small and noisy: no deadlines. The same examples each time: a failure can be run again.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("default")
