"""The console script `alttrain-push`: upload what a run trained to the hub. Nothing else ever uploads anything.

    alttrain-push RUN_FOLDER --repo ORG/NAME --dry-run   say what would be uploaded, and where
    alttrain-push RUN_FOLDER --repo ORG/NAME             upload adapter/ or model/, to a private repository

Reads adapter/ or model/ of the run's folder: weights, tokenizer, template and model card; no prompts and no generated
text. The token is the one of `hf auth login`, or HF_TOKEN; it is never an argument.
"""

import argparse
import re
import sys
from pathlib import Path

from alttrain.records import read_json
from alttrain.report.card import TRAINED

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
NAME = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script. Exit codes: 0 done, 2 refused."""
    parser = argparse.ArgumentParser(prog="alttrain-push", description="Upload what a run trained to the hub.")
    parser.add_argument("run", type=Path, help="a run's folder, such as outputs/runs/NAME")
    parser.add_argument("--repo", required=True, metavar="ORG/NAME", help="the repository; made if it is not there")
    parser.add_argument("--public", action="store_true", help="visible to all; without it the repository is private")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be uploaded")
    asked = parser.parse_args(arguments)
    try:
        folder = trained_folder(asked.run)
        print(told(folder, asked.repo, asked.public))
        if not asked.dry_run:
            print(push(folder, asked.repo, asked.public))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def trained_folder(run: Path) -> Path:
    """What the run trained. Raises FileNotFoundError where training is not finished or trained nothing, and ValueError
    where a file names a folder of this machine.
    """
    found = [run / name for name in TRAINED if any((run / name).glob("*.safetensors"))]
    if not found or not (run / "train.json").exists():
        raise FileNotFoundError(f"{run}: no finished adapter/ or model/ there; run the train stage first")
    if not (found[0] / "README.md").exists():
        raise FileNotFoundError(f"{found[0] / 'README.md'} is not there; alttrain stages=[report] writes it")
    for path in sorted(found[0].glob("*config.json")):  # of a backbone read from a folder, by an earlier version
        for key, value in read_json(path).items():
            if key.endswith("name_or_path") and value and (not NAME.fullmatch(str(value)) or Path(str(value)).is_dir()):
                raise ValueError(f"{path}: {key}={value} is a folder of this machine; put the model's name there")
    return found[0]


def told(folder: Path, repo: str, public: bool) -> str:
    """What would be uploaded where. Raises ValueError on a repository that is none."""
    if not REPOSITORY.fullmatch(repo):
        raise ValueError(f"--repo {repo}: expected ORG/NAME, such as my-team/r1-8b-alttrain")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"  {path.relative_to(folder)}  {path.stat().st_size:,} bytes" for path in files]
    return "\n".join([f"{folder} -> {repo} ({'public' if public else 'private'})", *lines])


def push(folder: Path, repo: str, public: bool) -> str:
    """Upload; the address of the commit. Raises ValueError where the repository is public, unasked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        if not public and not api.repo_info(repo).private:
            raise ValueError(f"--repo {repo}: it is there, and public; say --public, or choose another name")
        commit = api.upload_folder(folder_path=folder, repo_id=repo, commit_message=f"alttrain: {folder.parent.name}")
    except HfHubHTTPError as error:
        raise ValueError(f"--repo {repo}: {error}; log in with `hf auth login`, or set HF_TOKEN") from error
    return str(commit.commit_url)
