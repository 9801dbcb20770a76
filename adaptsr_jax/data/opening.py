"""Opens pictures, whatever holds them: all kinds of source by the field that names them."""

import functools
from typing import Any

from adaptsr_jax.data import folders, layouts, mixture, packed, tfds_source
from adaptsr_jax.data.sources import Source
from adaptsr_jax.errors import UserError


def open_source(config: Any, scale: int, cache_gb: float | None = None, split: str = 'train') -> Source:
  """Opens the pictures that `config` names, after a check of every name and header.

  Exactly one of these fields is given; absent fields count as empty:

    hr      a folder of HR pictures, with `lr` the folder of their LR pictures. Files belong together when their stems
            are equal, or equal without a known suffix (name_HR / name_LR4, name / namex4, name_x1 / name_x4); file
            endings may differ, and both kinds may lie in one folder. HR may be larger than scale * LR by less than two
            LR pixels at the bottom and right. Without `lr`, MATLAB's bicubic kernel makes LR from HR.
    root    the folder of a data set as it is distributed, see `layouts.recognise`; `track` chooses among its tracks.
    tfds    a TFDS builder and config, see `tfds_source`.
    packed  a folder that `python -m adaptsr_jax.pack` wrote.
    mix     several of these with weights, see `mixture`.

  `degrade` names the preset of a simulated camera that makes the LR pictures of training, for HR pictures without LR.
  `names` and `skip_names` ('a,b,c', or a text file with one name a line) restrict the pairs.

  Args:
    config: has the fields above as attributes, and may have `cache_gb`.
    scale: HR pixels per LR pixel and axis.
    cache_gb: decoded pictures are kept, in every process that reads, if all fit in this many GiB. By default
      `config.cache_gb`, or 2.
    split: 'train' or 'test', the part of data sets that come in parts.

  Raises:
    PairError: names each pair that cannot be used, with its reason (the first 20, and how many more).
    UserError: a folder is missing or without pictures, a listed name is not there, or fields contradict each other.
  """
  if split not in ('train', 'test'):
    raise ValueError(f'split is {split!r}; it is train or test')
  if cache_gb is None:
    cache_gb = getattr(config, 'cache_gb', 2.0)
  return _OPENERS[_kind(config)](config, scale, int(cache_gb * 2**30), split)


def _kind(config: Any) -> str:
  """Returns the one field of `_OPENERS` that is given; 'hr', which then complains, where none is."""
  given = [field for field in _OPENERS if getattr(config, field, '')]
  if len(given) > 1:
    raise UserError(f'{given[0]} and {given[1]} are both given; pictures come from one of {", ".join(_OPENERS)}.')
  kind = given[0] if given else 'hr'
  for field, owner in (('lr', 'hr'), ('track', 'root')):
    if getattr(config, field, '') and kind != owner:
      raise UserError(f'{field} is given with {kind}, but it belongs to {owner}; leave it empty.')
  return kind


_OPENERS = {
  'hr': folders.open_folders,
  'root': layouts.open_root,
  'tfds': tfds_source.open_tfds,
  'packed': packed.open_packed,
  'mix': functools.partial(mixture.open_mix, open_part=open_source),
}
