"""`.env.example` names every setting there is, and nothing else: the processes read it as the list of known names."""

from pathlib import Path

from tests.house.env_example import PROCESSES, lines

ROOT = Path(__file__).parents[2]


def test_the_example_is_what_the_settings_classes_say() -> None:
    written = (ROOT / ".env.example").read_text()
    assert written == "\n".join(lines()).rstrip() + "\n", "python -m tests.house.env_example > .env.example"


def test_each_setting_is_named_bare_or_for_each_process_that_has_it() -> None:
    names = {line.split("=")[0] for line in lines() if "=" in line and not line.startswith("#")}
    for process, settings in PROCESSES.items():
        missing = [
            name
            for name in settings.model_fields
            if name.upper() not in names and f"{process}_{name}".upper() not in names
        ]
        assert not missing
