"""The `promo` commands and the local stack. It imports no service: it runs them as processes."""
