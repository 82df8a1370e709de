"""Programs outside the platform that use it."""
