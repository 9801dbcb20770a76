"""Examines pairs of pictures before a network learns from them: what is wrong, in which pair, and by how much.

`folders` finds the pairs and those that cannot be pairs, `examine` measures one pair, `findings` judges the measures,
`duplicates` compares pairs with each other, `report` writes what was found, and `mend` writes aligned copies.
"""
