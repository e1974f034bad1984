"""What the service knows about itself: quality, freshness, rates."""
