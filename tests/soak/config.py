"""The configuration of the soaked service: all that the example of a shop has, with small stores and short windows."""

from __future__ import annotations

from pathlib import Path

__all__ = ["LATENESS", "WINDOW", "write"]

WINDOW, LATENESS = 2.0, 4.0

TEXT = f"""
[stream]
url = "lmdb://{{folder}}/data"
window = {WINDOW}
lateness = {LATENESS}
close_after_click = 1.0
max_impressions = 2000
max_interaction_ids = 5000
[stream.options]
max_bytes = 8589934592
[checkpoint]
every = 2.0
[reward]
click = 1.0
buy = 5.0
watch = {{{{ at_least = 30.0 }}}}
[features.user]
id = "category"
country = "category"
[features.item]
id = "category"
brand = "category"
tags = {{{{ type = "tags", max_tags = 4 }}}}
price = {{{{ type = "bucket", width = 10.0 }}}}
[features.context]
device = "category"
[negatives]
n = 2
[users]
capacity = 1000
[items]
capacity = 1000
[history]
capacity = 1000
[seen]
users = 1000
items = 20000
[retrievers.item_knn]
capacity = 1000
users = 1000
[retrievers.transitions]
capacity = 1000
[retrievers.trending]
capacity = 1000
[retrievers.click_rate]
capacity = 1000
[ranker.fm]
factors = 8
bits = 14
[rerankers.mixture]
[policy.epsilon_greedy]
epsilon = 0.05
"""


def write(folder: Path) -> Path:
    """Write the config to a folder, where the service keeps its data, too."""
    file = folder / "service.toml"
    file.write_text(TEXT.format(folder=folder))
    return file
