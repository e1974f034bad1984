"""The routes, and the OpenAPI page that is made from them."""
