"""Which bitwidth each layer gets: numbers in, numbers out.

The strategies themselves are found by name (`find_strategy`), or imported from the module of their name.
"""

from sigmaquant.search.clustering import LineClusters, kmeans_line
from sigmaquant.search.feasibility import check_reachable, smallest_reachable
from sigmaquant.search.greedy import GreedyProgress
from sigmaquant.search.phase1 import Clustering, cluster_to_budget, shifted
from sigmaquant.search.phase2 import Move, propose
from sigmaquant.search.problem import Assignment, Bits, SearchProblem, Sensitivity
from sigmaquant.search.random_search import random_plan
from sigmaquant.search.strategies import STRATEGIES, Evidence, Strategy, find_strategy, register

__all__ = [
    "STRATEGIES",
    "Assignment",
    "Bits",
    "Clustering",
    "Evidence",
    "GreedyProgress",
    "LineClusters",
    "Move",
    "SearchProblem",
    "Sensitivity",
    "Strategy",
    "check_reachable",
    "cluster_to_budget",
    "find_strategy",
    "kmeans_line",
    "propose",
    "random_plan",
    "register",
    "shifted",
    "smallest_reachable",
]
