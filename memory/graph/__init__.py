"""Graph of clusters and items, and scores from the sums on its edges."""
