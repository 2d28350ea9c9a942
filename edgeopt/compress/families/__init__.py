"""Networks of one family, and the layers they consist of."""
