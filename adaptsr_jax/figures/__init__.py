"""Figures as files: maps of ranks, curves, spreads, trade-offs, pictures.

Drawn with matplotlib's own objects instead of pyplot: no window and no global figure. The suffix of the path chooses
the format, .png or .svg. Colours stay apart for colour-blind readers and in grey print.
"""

from adaptsr_jax.figures.curves import learning_curves, spreads
from adaptsr_jax.figures.pictures import Box, attribution, busiest_box, compare_strip, evenly, heaviest_box
from adaptsr_jax.figures.rank_map import module_grid, rank_heatmap
from adaptsr_jax.figures.style import SUFFIXES, check_path, save
from adaptsr_jax.figures.tradeoff import slider, tradeoff
