"""Text to train on and to take means over: sources, generated idioms, mixtures, blocks of tokens, n-gram baselines."""
