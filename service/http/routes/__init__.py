"""Routes: how each is reached, what answers it, and the OpenAPI page that is made from them."""
