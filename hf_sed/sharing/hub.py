"""Pushing a detector: the files that make it one, and no others."""

from __future__ import annotations

import json
from pathlib import Path

MODEL_FILES = (
    "config.json",
    "model*.safetensors*",
    "preprocessor_config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "README.md",
)


def upload_model_folder(
    folder: str | Path,
    repo_id: str,
    commit_message: str = "Upload detector",
    token: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
):
    """Upload a saved detector (or adapter) to the model repository ``repo_id``, which is created where it is not there.

    Only config, weights, feature extractor, adapter and card go; training state, logs, records and whatever else lies in
    the folder stay. Raises FileNotFoundError for a folder without a detector, ValueError for an adapter whose base model
    is a local folder, which nobody else could load.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    adapter = folder / "adapter_config.json"
    if not (folder / "config.json").is_file() and not adapter.is_file():
        raise FileNotFoundError(f"{folder}: holds no saved detector (config.json) or adapter (adapter_config.json).")
    if adapter.is_file():
        base = json.loads(adapter.read_text())["base_model_name_or_path"]
        if Path(base).exists():
            raise ValueError(
                f"{folder}: the adapter's base model is the local folder {base}. Push the base first and set "
                "base_model_name_or_path in adapter_config.json to its hub id, or push merge_and_unload()."
            )
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, exist_ok=True, private=private).repo_id
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message=commit_message,
        allow_patterns=list(MODEL_FILES),
        revision=revision,
    )
