from .oneshot.api import certify as certify
from .oneshot.api import prune as prune
from .penalties.group_penalty import GroupPenalty as GroupPenalty
from .structure.allocation import keep_within as keep_within
from .structure.groups import Groups as Groups
from .structure.groups import find_groups as find_groups
from .structure.removal import mask_groups as mask_groups
from .structure.removal import prune_groups as prune_groups
from .training.run import train as train

__version__: str
