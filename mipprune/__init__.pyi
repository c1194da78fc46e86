from .analysis.compare.compare import compare as compare
from .analysis.evaluate import evaluate_checkpoint as evaluate_checkpoint
from .analysis.export import export as export
from .analysis.valley import valley as valley
from .config.train import Config as Config
from .models.registry import build as build
from .oneshot.api import certify as certify
from .oneshot.api import prune as prune
from .oneshot.certify import Certificate as Certificate
from .oneshot.pruning import PruneResult as PruneResult
from .penalties.group_penalty import GroupPenalty as GroupPenalty
from .structure.allocation import keep_within as keep_within
from .structure.groups import Groups as Groups
from .structure.groups import find_groups as find_groups
from .structure.removal import mask_groups as mask_groups
from .structure.removal import prune_groups as prune_groups
from .training.run import train as train

__version__: str
