"""Networks of one family, and the search for the most accurate of them within a budget."""
