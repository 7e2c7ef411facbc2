"""Claims of this project: what its README and its rows say."""
