"""Each strategy as a whole, on real servers."""
