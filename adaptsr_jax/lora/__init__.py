"""Low-rank adapters: where they can sit, their arrays and algebra, and the forward pass that merges no kernel."""

from adaptsr_jax.lora import factored
from adaptsr_jax.lora.adapters import Adapters, RankMap, combine, concatenate, delta, init, merge, rank_of, scale, weigh
from adaptsr_jax.lora.sites import FORMS, Site, cost, find_sites, from_json, kernel_width, shapes, table, to_json
from adaptsr_jax.lora.truncation import energies, truncated, unit_energies
