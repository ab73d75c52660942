"""What the parts of a benchmark promise each other. Samplers, models and datasets import this package and nsbench.registry.

Symbols used in shapes: B batch, K negatives per positive, N entities, R relations, D stored width of an entity vector,
S slots of an entity (slot 0 structural, one more per feature modality). Higher scores are more plausible. `side` is a
bool tensor: True where the head is replaced.
"""

from nsbench.contracts.batch import Generated as Generated
from nsbench.contracts.batch import Negatives as Negatives
from nsbench.contracts.batch import Positives as Positives
from nsbench.contracts.batch import blocks_of as blocks_of
from nsbench.contracts.dataset import Dataset as Dataset
from nsbench.contracts.dataset import DatasetLoader as DatasetLoader
from nsbench.contracts.dataset import pooled as pooled
from nsbench.contracts.graph import NonPositives as NonPositives
from nsbench.contracts.graph import TrainGraph as TrainGraph
from nsbench.contracts.graph import find as find
from nsbench.contracts.model import KGE as KGE
from nsbench.contracts.model import Fusion as Fusion
from nsbench.contracts.model import Pair as Pair
from nsbench.contracts.model import Similarity as Similarity
from nsbench.contracts.model import uniform as uniform
from nsbench.contracts.sampler import Auxiliary as Auxiliary
from nsbench.contracts.sampler import Objective as Objective
from nsbench.contracts.sampler import Sampler as Sampler
from nsbench.contracts.scoring import Scoring as Scoring
from nsbench.contracts.setting import Need as Need
from nsbench.contracts.setting import NoOptions as NoOptions
from nsbench.contracts.setting import Setting as Setting
from nsbench.contracts.setting import missing_needs as missing_needs
from nsbench.contracts.view import View as View
