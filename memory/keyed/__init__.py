"""State by key: users, items and features, in tables of bounded size."""
