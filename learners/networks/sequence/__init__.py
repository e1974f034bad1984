"""A model of what a user does next, from what the user did last, and what of an older past can be kept beside it."""
