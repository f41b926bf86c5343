"""Downloads storytellers from the Hugging Face Hub, and uploads them. huggingface_hub is imported on first use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.artifacts import FILES, GRAPH, ArtifactError

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # user/name, with the characters that the Hub allows
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def names_repo(name: str | Path) -> bool:
    """Returns whether `name` can only be a repository on the Hub: user/name, and no file or folder `user` exists."""
    return isinstance(name, str) and bool(REPO.fullmatch(name)) and not Path(name.split("/")[0]).exists()


def download(repo_id: str, *, local_files_only: bool = False, **options: Any) -> Path:
    """Downloads the artifact that was published as `repo_id`. Returns its folder in the Hub's cache.

    `options` are those of `huggingface_hub.snapshot_download`: revision, cache_dir, force_download, token. Only the
    files of an artifact are downloaded. Raises ArtifactError, which names the repository and the fix.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError

    names = [*FILES, GRAPH]
    try:
        folder = snapshot_download(
            repo_id, allow_patterns=names, library_name="gpt-from-scratch", local_files_only=local_files_only, **options
        )
    # ValueError and ImportError: a proxy in the environment that cannot be used
    except (HFValidationError, HTTPError, OSError, ValueError, ImportError) as error:
        answered = next((each for each in (error, error.__cause__) if isinstance(each, HfHubHTTPError)), None)
        status = answered.response.status_code if answered else None
        if isinstance(error, HFValidationError) or status in (
            401,
            403,
            404,
        ):  # the Hub answers the same for a private model as for none
            revision = f" at revision {options['revision']}" if options.get("revision") else ""
            trouble = f"is neither a folder here nor a model on the Hub that you may read{revision}"
            fix = f"check the name; if it is private, {LOGIN}"
            raise ArtifactError(f"{repo_id} {trouble}{f' ({status})' if status else ''}: {fix}") from error
        if status:
            cause = f"the Hub has trouble ({status})"
        elif isinstance(error, LocalEntryNotFoundError):
            cause = "it is not in the cache" if local_files_only else "the Hub cannot be reached"
        else:
            cause = str(error).strip().split("\n")[0]
        raise ArtifactError(f"{repo_id} could not be downloaded: {cause}; check the network and try again") from error
    if not (Path(folder) / "config.json").exists():
        raise ArtifactError(f"{repo_id} on the Hub is not a storyteller: it has no config.json of this program")
    return Path(folder)


def upload(
    files: Mapping[str, bytes],
    repo_id: str,
    *,
    commit_message: str,
    private: bool | None = None,
    token: str | None = None,
    create_pr: bool = False,
) -> str:
    """Publishes an artifact's files as a model repository, in one commit. Returns the URL of the commit.

    The repository is created if it does not exist. If the files hold no model.onnx, the same commit deletes an old one;
    all other files there stay. A commit that somebody else makes in the meantime is not overwritten: the Hub then
    refuses ours with status 412. Raises huggingface_hub's HfHubHTTPError.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token, library_name="gpt-from-scratch")
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    before = api.model_info(repo_id)
    operations: list[Any] = [CommitOperationAdd(name, data) for name, data in files.items()]
    if GRAPH not in files and any(sibling.rfilename == GRAPH for sibling in before.siblings or ()):
        operations.append(CommitOperationDelete(GRAPH))
    commit = api.create_commit(
        repo_id, operations, commit_message=commit_message, parent_commit=before.sha, create_pr=create_pr
    )
    return commit.pr_url or commit.commit_url
