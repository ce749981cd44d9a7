"""The steps of a retraining: what is new, is it worth it, train, judge, promote, tell."""
