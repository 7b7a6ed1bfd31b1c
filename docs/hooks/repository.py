"""A hook of MkDocs: the site links to the repository that it is built from."""

import re
import subprocess
from pathlib import Path


def on_config(config):
    command = ["git", "config", "--get", "remote.origin.url"]
    here = Path(config.config_file_path).parent
    origin = subprocess.run(command, cwd=here, capture_output=True, text=True).stdout.strip()
    config.repo_url = page_of(origin)
    return config


def page_of(origin):
    """The web page of a git remote, or None for a folder, another protocol, or no remote.

    Names and passwords in the address are left out.
    """
    ssh = re.fullmatch(r"(?:ssh://)?(?:[^@/:]+@)([^/:]+)(?::\d+/|[:/])(.+)", origin)
    web = re.fullmatch(r"https?://(?:[^@/]+@)?([^/]+)/(.+)", origin)
    found = ssh or web
    return found and f"https://{found[1]}/{found[2].removesuffix('/').removesuffix('.git')}"
