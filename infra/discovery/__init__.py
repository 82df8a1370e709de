"""Who serves a name now: fixed addresses from the settings, or the live registrations in etcd."""

from infra.discovery.instances import Instances, static

__all__ = ["Instances", "static"]
