"""The HTML page of a study: one file that opens without a network, with the decision on top."""
