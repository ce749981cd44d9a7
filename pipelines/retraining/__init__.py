"""What a retraining asks of a corpus: some samples of old and new, and the mixture to train on."""
