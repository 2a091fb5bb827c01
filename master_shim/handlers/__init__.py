"""The handlers of the routes, by who calls them."""
