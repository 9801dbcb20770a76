"""Data sets as they are distributed, told from their folders.

Any level of an archive may be given: the folder it unpacks to, one camera, or the folder of one scale. What is known:

    RealSR V3   {Canon,Nikon}/{Train,Test}/{2,3,4}/Canon_001_HR.png and Canon_001_LR4.png
    RealSR V2   the same, with LR enlarged to the size of HR: refused, and explained
    DRealSR     x4/Train_x4/{train_HR,train_LR} and x4/Test_x4/{test_HR,test_LR}
    DIV2K       DIV2K_{train,valid}_HR and DIV2K_{train,valid}_LR_{bicubic,unknown}/X4, ..._LR_{mild,difficult,wild},
                ..._LR_x8; also without X4, with _X4 at the folder's name, and one level deeper
    DPED        {iphone,...}/training_data/{iphone,canon}: pairs of one size, for x1
    StableSR's  DIV2K_V2_val/{lq,gt}, {RealSRVal,DrealSRVal}_crop128/{test_LR,test_HR}, or any spelling below
    others      LR and HR, lq and gt, input and target, ..., also under train and test; or a_HR and a_LR4 in one folder
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from adaptsr_jax import image
from adaptsr_jax.data.folders import Folders, FolderSource, find_pairs, is_lr_name, restriction
from adaptsr_jax.errors import UserError, some

_CAMERAS = ('Canon', 'Nikon')
# Canon_001_HR; Canon_001 in copies with folders of their own for HR and LR.
_REALSR_NAME = re.compile(r'(Canon|Nikon)_\d+(_HR)?$')
_PHONES = ('iphone', 'blackberry', 'sony')
_SCALES = (2, 3, 4)
_TRACKS = ('bicubic', 'unknown', 'mild', 'difficult', 'wild')
_DIV2K_MARK = re.compile(r'\d_?x([2-8])(?:[md]|w\d?)?$', re.IGNORECASE)
_STABLESR = ('DIV2K_V2_val', 'RealSRVal_crop128', 'DrealSRVal_crop128')
# How folders of LR and HR are called, '{s}' being the scale.
_SPELLINGS = (
  *((lr, 'HR') for lr in ('LR', 'LR/x{s}', 'LR_x{s}', 'LR_bicubic/x{s}', 'LR_bicubic_x{s}')),
  *(('LQ', 'GT'), ('LQ', 'HR'), ('LR', 'GT'), ('input', 'target'), ('inputs', 'targets'), ('low', 'high')),
)
_PARTS = {
  'train': ('train', 'training', 'train_x{s}'),
  'test': ('test', 'valid', 'val', 'validation', 'test_x{s}', 'valid_x{s}'),
}


class Layout(NamedTuple):
  """A data set that was recognised."""

  name: str  # in a few words: 'DIV2K unknown'
  description: str  # 'RealSR V3, Canon and Nikon, test, x4'
  folders: tuple[Folders, ...]


class _Wish(NamedTuple):
  root: Path
  scale: int
  split: str
  track: str


def open_root(config: Any, scale: int, cache_bytes: int, split: str) -> FolderSource:
  """Opens the data set in the folder `config.root`; see `opening.open_source`."""
  layout = recognise(config.root, scale, split, getattr(config, 'track', ''))
  items = find_pairs(layout.folders, scale, **restriction(config))
  words = {'label': layout.name, 'title': layout.description, 'degrade': getattr(config, 'degrade', '')}
  return FolderSource(items, scale, cache_bytes, **words)


def recognise(root: str, scale: int, split: str = 'train', track: str = '') -> Layout:
  """Tells which data set lies in `root`, and which of its folders hold the pairs that are asked for.

  Args:
    root: a folder of the data set, at any level; one inside a part ('Canon/Test') decides the part itself.
    scale: HR pixels per LR pixel and axis.
    split: 'train' or 'test'; data sets call the latter validation, too.
    track: which pictures, where there are several: of DIV2K 'bicubic', 'unknown', 'mild', 'difficult' or 'wild'; of
      DPED the phone; of StableSR's test sets the folder.

  Raises:
    UserError: no known layout, several tracks and none chosen, or a known data set without what is asked for.
  """
  wish = _Wish(Path(root).expanduser().absolute(), scale, split, track)
  if not wish.root.is_dir():
    raise UserError(f'root: {root} is {"a file, not a folder" if wish.root.is_file() else "not there"}.')
  for tell in (_realsr, _stablesr, _div2k, _dped, _drealsr, _subfolders, _one_folder):
    layout = tell(wish)
    if layout and track and tell not in (_stablesr, _div2k, _dped):
      raise UserError(f'track is {track}, but {layout.name} in {root} has no tracks; leave it empty.')
    if layout:
      return layout
  raise UserError(
    f'root: {root} is no data set that is known ({_content(wish.root)}); known are RealSR, DRealSR, DIV2K, DPED, the '
    'test sets of StableSR, and any folder with LR and HR (or lq and gt, input and target) inside; other folders are '
    'given by hr and lr.'
  )


def _realsr(wish: _Wish) -> Layout | None:
  root = _only_child(wish.root, 'realsr')
  cameras = [found for name in _CAMERAS if (found := _child(root, name))] or [root]
  leaves = [_realsr_leaf(camera, wish) for camera in cameras]
  if not all(leaves):
    return None
  places = tuple(map(_realsr_pairs, leaves))
  version = _realsr_version(places[0], wish)
  who = ' and '.join(place.camera for place in places)
  part = _split_of(leaves[0], wish.split)
  return Layout(f'RealSR {version}', f'RealSR {version}, {who}, {part}, x{wish.scale}', places)


def _realsr_leaf(camera: Path, wish: _Wish) -> Path | None:
  """Returns the folder of pictures below `camera`, which may be a part or a scale itself; None: this is not RealSR."""
  if _is_realsr_leaf(camera):
    return camera
  parts = {word: found for word in ('train', 'test') if (found := _child(camera, word))} or {wish.split: camera}
  leaves = {
    (word, n): leaf
    for word, part in parts.items()
    for n in _SCALES
    if (leaf := _child(part, str(n)) or _child(part, f'x{n}')) and _is_realsr_leaf(leaf)
  }
  if not leaves:
    return None
  if wish.split not in parts:
    raise UserError(f'root: {camera} has no {wish.split.title()} folder.')
  if (wish.split, wish.scale) not in leaves:
    there = [n for word, n in leaves if word == wish.split]
    raise UserError(f'root: {parts[wish.split]} has no pairs of x{wish.scale}; there are {_listed(there, "x")}.')
  return leaves[wish.split, wish.scale]


def _is_realsr_leaf(folder: Path) -> bool:
  """Tells whether a folder holds RealSR's pictures of one scale, side by side or in HR and LR."""
  is_scale = folder.name.lower().removeprefix('x') in map(str, _SCALES)
  apart = _both(folder, 'LR', 'HR') if is_scale else None
  files = image.list_images(apart[1] if apart else folder)
  named = any(_REALSR_NAME.match(path.stem) for path in files[:1])
  return named and bool(apart or any(is_lr_name(path.stem) for path in files))


def _realsr_pairs(leaf: Path) -> Folders:
  hr, lr = (str(_child(leaf, name) or leaf) for name in ('HR', 'LR'))
  return Folders(hr, lr, image.list_images(Path(hr))[0].stem.partition('_')[0])


def _realsr_version(place: Folders, wish: _Wish) -> str:
  """Returns 'V3'; earlier versions, where both pictures have one size, are of use to a x1 model only."""
  hr, lr = (image.list_images(Path(folder)) for folder in (place.hr, place.lr))
  hr, lr = [path for path in hr if not is_lr_name(path.stem)], [path for path in lr if is_lr_name(path.stem)] or lr
  if image.size(hr[0]) != image.size(lr[0]):
    return 'V3'
  if wish.scale > 1:
    raise UserError(
      f'root: {wish.root} is RealSR V1 or V2, whose LR pictures were enlarged to the size of HR, so a x{wish.scale} '
      'model cannot learn from them; take RealSR V3, the archive RealSR(V3), where LR is small.'
    )
  return 'V2'


def _drealsr(wish: _Wish) -> Layout | None:
  s, part = wish.scale, wish.split
  root = _child(wish.root, f'x{s}') or wish.root
  above = _child(root, f'{part}_x{s}')
  base = above or root
  inside = [word for word in ('train', 'test') if _child(base, f'{word}_HR') and _child(base, f'{word}_LR')]
  if not inside:
    there = [
      found.name
      for n in _SCALES
      for word in ('train', 'test')
      if (found := _child(_child(wish.root, f'x{n}') or root, f'{word}_x{n}')) and _child(found, f'{word}_HR')
    ]
    if not there:
      return None
    raise UserError(f'root: {wish.root} is DRealSR without {part.title()}_x{s}; there are {_listed(there)}.')
  word = part if part in inside else inside[0]
  known = base.name.lower() in {f'{word}_x{n}' for n in _SCALES}
  hr, lr = (str(_child(base, f'{word}_{kind}')) for kind in ('HR', 'LR'))
  name = 'DRealSR' if known else base.name
  return Layout(name, f'{name}, {word}, x{s}', (Folders(hr, lr, in_order=True),))


def _div2k(wish: _Wish) -> Layout | None:
  base = _div2k_base(wish.root)
  if base is None:
    return None
  inside = _inside(wish.root, base)
  parts = _div2k_parts(base)
  part = {'train': 'train', 'test': 'valid'}[wish.split]
  part = next((word for word in ('train', 'valid') if inside.startswith(f'div2k_{word}')), part)
  if part not in parts:
    raise UserError(f'root: {base} has no DIV2K_{part}_HR; there is DIV2K_{parts[0]}_HR.')
  hr = _unpacked(_child(base, f'DIV2K_{part}_HR'))
  places = _div2k_lr(base, part)
  tracks = {track: place for (track, scale), place in places.items() if scale == wish.scale}
  if not tracks:
    others = sorted({scale for _, scale in places})
    there = f' (there are {_listed(others, "x")})' if others else ''
    raise UserError(
      f'root: {base} has HR pictures of DIV2K, but no LR pictures of x{wish.scale} for them{there}; '
      f'give hr={hr} to make LR from HR.'
    )
  asked = wish.track or next((track for track in _TRACKS if f'_lr_{track}' in inside), '')
  track = _chosen(asked, tracks, base)
  lr, names = tracks[track]
  of_several = '' if track != 'wild' else ', the first of several LR pictures each'
  folders = Folders(str(hr), str(lr), in_order=True, names=names)
  return Layout(f'DIV2K {track}', f'DIV2K, {track} track, {part}, x{wish.scale}{of_several}', (folders,))


def _div2k_base(root: Path) -> Path | None:
  """Returns the folder that holds DIV2K_train_HR or DIV2K_valid_HR: `root`, the only one in it, or one above it."""
  only = _only_child(root, 'div2k')
  above = [path for path in root.parents[:3] if _inside(root, path).startswith('div2k_')]
  found = [path for path in (root, *above, only) if _div2k_parts(path)]
  # Where HR lies doubled, the inner of its folders holds one of that name, too.
  return next(
    (path for path in found if any(_div2k_lr(path, part) for part in _div2k_parts(path))), next(iter(found), None)
  )


def _div2k_lr(base: Path, part: str) -> dict[tuple[str, int], tuple[Path, str]]:
  """Returns (track, scale) -> (folder, which of its names) of the LR pictures, as they are unpacked in many ways.

  DIV2K_train_LR_bicubic/X4/0001x4.png as published; without X4; with _X4 at the name of the folder, as the archive has
  it; in a folder of the same name once more; DIV2K_train_LR_x8; several scales in one folder.
  """
  places: dict[tuple[str, int], tuple[Path, str]] = {}
  for folder in _folders(base):
    match = re.fullmatch(rf'DIV2K_{part}_LR_({"|".join(_TRACKS)}|x8)(?:_x([2-8]))?', folder.name, re.IGNORECASE)
    if not match:
      continue
    track = 'bicubic' if match[1].lower() == 'x8' else match[1].lower()
    told = 8 if match[1].lower() == 'x8' else int(match[2] or 0)
    within = _unpacked(folder)
    for inner in (within, *(child for child in _folders(within) if re.fullmatch('x[2-8]', child.name, re.IGNORECASE))):
      own = int(inner.name[1:]) if inner != within else told
      for scale, names in _scales_in(_unpacked(inner), own).items():
        places.setdefault((track, scale), (_unpacked(inner), names))
  return places


def _scales_in(folder: Path, told: int) -> dict[int, str]:
  """Returns scale -> which names are of it, by their marks; without any, of the scale that the folders tell, or x4."""
  marks = {int(match[1]) for path in image.list_images(folder) if (match := _DIV2K_MARK.search(path.stem))}
  if not marks:
    return {told or 4: ''} if image.list_images(folder) else {}
  return {scale: rf'x{scale}(?:[md]|w1?)?$' for scale in marks}


def _unpacked(folder: Path) -> Path:
  """Returns the folder in which an archive was unpacked into one of its own name; otherwise `folder` itself."""
  inside = _folders(folder)
  if len(inside) != 1 or image.list_images(folder):
    return folder
  return inside[0] if inside[0].name.lower()[:12] == folder.name.lower()[:12] else folder


def _div2k_parts(folder: Path) -> list[str]:
  return [part for part in ('train', 'valid') if _child(folder, f'DIV2K_{part}_HR')]


def _inside(folder: Path, base: Path) -> str:
  """Returns the path of `folder` below `base`; '' where it is not there."""
  return str(folder.relative_to(base)).lower() if folder.is_relative_to(base) else ''


def _dped(wish: _Wish) -> Layout | None:
  root = _only_child(wish.root, 'dped')
  root = root.parent if root.name in ('training_data', 'test_data') and root.parent.name in _PHONES else root
  phones = {name: found for name in _PHONES if (found := _child(root, name)) and _is_phone(found)}
  if not phones and _is_phone(root):
    phones = {root.name.lower(): root}
  if not phones:
    return None
  phone = _chosen(wish.track, phones, root)
  pairs = phones[phone] / ('training_data' if wish.split == 'train' else 'test_data/patches')
  lr, hr = _child(pairs, phone), _child(pairs, 'canon')
  if wish.scale > 1:
    raise UserError(
      f'root: {root} is DPED, whose pairs have one size, for x1 models; its photos of the phone have no HR of '
      f'x{wish.scale}: enlarge them with adaptsr_jax.upscale, or give good photos as hr and let a simulated camera '
      'shrink them (degrade).'
    )
  if not (lr and hr):
    raise UserError(
      f'root: {root} has no pairs in {pairs.relative_to(root)}; the full-size photos of DPED are unpaired.'
    )
  folders = Folders(str(hr), str(lr))
  return Layout(f'DPED {phone}', f'DPED, {phone} and canon, {wish.split}, x1', (folders,))


def _is_phone(folder: Path) -> bool:
  return bool(_child(folder, 'training_data') or _child(folder, 'test_data'))


def _stablesr(wish: _Wish) -> Layout | None:
  names = {name.lower(): name for name in _STABLESR}
  sets = {name: found for name in _STABLESR if (found := _child(wish.root, name))}
  if not sets and wish.root.name.lower() in names:
    sets = {names[wish.root.name.lower()]: wish.root}
  if not sets:
    return None
  name = _chosen(wish.track, sets, wish.root)
  folder = sets[name]
  pair = _spelled(folder, wish.scale) or _both(folder, 'test_LR', 'test_HR')
  if not pair:
    raise UserError(
      f'root: {folder} is a test set of StableSR, but has neither test_LR and test_HR nor lq and gt inside.'
    )
  lr, hr = map(str, pair)
  return Layout(name, f'{name} of StableSR, x{wish.scale}', (Folders(hr, lr, in_order=True),))


def _subfolders(wish: _Wish) -> Layout | None:
  for folder in (wish.root, *_parts(wish)):
    pair = _spelled(folder, wish.scale)
    if pair:
      lr, hr = (str(path.relative_to(wish.root)) for path in pair)
      description = f'{wish.root.name} ({lr} and {hr}), x{wish.scale}'
      return Layout(wish.root.name, description, (Folders(*map(str, reversed(pair)), in_order=True),))
  return None


def _parts(wish: _Wish) -> list[Path]:
  names = [name.format(s=wish.scale) for name in _PARTS[wish.split]]
  return [found for name in names if (found := _child(wish.root, name))]


def _one_folder(wish: _Wish) -> Layout | None:
  for folder in (wish.root, *_parts(wish)):
    kinds = {is_lr_name(path.stem) for path in image.list_images(folder)}
    if len(kinds) == 2:
      return Layout(folder.name, f'{folder.name}, x{wish.scale}', (Folders(str(folder), str(folder)),))
  return None


def _spelled(folder: Path, scale: int) -> tuple[Path, Path] | None:
  """Returns the LR and the HR folder inside `folder`, by the first spelling that both have."""
  found = (_both(folder, lr.format(s=scale), hr) for lr, hr in _SPELLINGS)
  return next((pair for pair in found if pair and all(map(image.list_images, pair))), None)


def _both(folder: Path, lr: str, hr: str) -> tuple[Path, Path] | None:
  found = _child(folder, *lr.split('/')), _child(folder, hr)
  return found if all(found) else None


def _chosen(track: str, known: dict[str, Path], where: Path) -> str:
  """Returns the key of `known` that `track` names, or the only one."""
  by_form = {name.lower(): name for name in known}
  if track and track.lower() not in by_form:
    raise UserError(f'track is {track}, which {where} does not contain; it has {_listed(known)}.')
  if not track and len(known) > 1:
    raise UserError(f'{where} has several tracks; choose one by track: {_listed(known)}.')
  return by_form[track.lower()] if track else next(iter(known))


def _split_of(folder: Path, asked: str) -> str:
  """Returns the part that the path of `folder` names: another than `asked` where a folder inside a part was given."""
  words = {part.lower() for part in folder.parts[-3:]}
  return next((word for word in ('train', 'test') if word in words), asked)


def _only_child(folder: Path, beginning: str) -> Path:
  """Returns the only folder inside whose name begins so, as archives unpack to one; `folder` where there is none."""
  inside = [path for path in _folders(folder) if path.name.lower().startswith(beginning)]
  return inside[0] if len(inside) == 1 else folder


def _child(folder: Path, *names: str) -> Path | None:
  """Returns the folder at `names` below, in any case."""
  for name in names:
    found = next((path for path in _folders(folder) if path.name.lower() == name.lower()), None)
    if found is None:
      return None
    folder = found
  return folder


def _folders(folder: Path) -> list[Path]:
  if not folder.is_dir():
    return []
  with os.scandir(folder) as entries:
    return sorted(folder / entry.name for entry in entries if entry.is_dir())


def _content(folder: Path) -> str:
  inside = [path.name for path in _folders(folder)]
  folders = f'folders {some(inside, 5)}' if inside else 'no folders'
  return f'it contains {folders}, {len(image.list_images(folder))} pictures'


def _listed(names: Iterable[Any], before: str = '') -> str:
  return ', '.join(f'{before}{name}' for name in names)
