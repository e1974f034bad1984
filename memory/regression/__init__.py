"""Linear models that are exact after each row: sparse follow-the-leader, and recursive ridge regression."""
