"""Algorithm 1 of arXiv:1909.10351, and what surrounds it: words, candidates, copies, recipes, shards."""
