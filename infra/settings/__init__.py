"""Settings of a process: environment variables, then `.env` in the working directory.

Each limit is a field with its unit in its name; the environment variable is the field's name in capitals. No other
module reads the environment.
"""

from infra.settings.fields import (
    CommaList,
    Count,
    Duration,
    Environment,
    Milliseconds,
    Port,
    Private,
    Seconds,
    ServiceName,
    Settings,
    WorkerSettings,
    secret,
)
from infra.settings.load import SettingsError, load, names_of, read

__all__ = [
    "CommaList",
    "Count",
    "Duration",
    "Environment",
    "Milliseconds",
    "Port",
    "Private",
    "Seconds",
    "ServiceName",
    "Settings",
    "SettingsError",
    "WorkerSettings",
    "load",
    "names_of",
    "read",
    "secret",
]
