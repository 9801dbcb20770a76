"""Ranks: how much each site matters, and how a budget is shared among the sites (AdaptSR, Algorithm 1)."""

from adaptsr_jax.ranks.agreement import average_ranks, stability
from adaptsr_jax.ranks.allocation import RULES, UNITS, allocate
from adaptsr_jax.ranks.scoring import KINDS, mean_gradients, norm_scores, score_table, scores, spectral_gains
