"""The tables of the paper at a size that a CPU can run, and what few pairs and other cameras come to.

  python -m experiments.009_tables.sweep --safmn=safmn_ntire2023_x4.pth --edsr=edsr_first.safetensors \
    --data=drealsr_x4 --photos=hr_train --weights=WEIGHTS --runs=runs/009

`--data` holds LR and HR, every seventh pair validates, as in 001. All runs are done in this process by the functions of
008; what is done already is kept. Every seed is run through all tables before the next. Writes TABLE.jsonl into
`--out`; `report.py` makes tables and figures of it.
"""

import argparse
import functools
import importlib
import json
from pathlib import Path
from typing import Any

promise = importlib.import_module('experiments.008_promise.sweep')

HERE = Path(__file__).parent
ADAPTERS = {'optim.lr': promise.BEST['rank-aware']}
FULL = {'method': 'full', 'optim.lr': promise.BEST['full']}
MEASURED = {'metrics': ('lpips_alex',), 'strengths': ()}
BOTH = {name: {**own, 'metrics': (), 'strengths': (0.8,)} for name, own in (('rank-aware', ADAPTERS), ('full', FULL))}
# What SAFMN has in place of MLPs and attention: channel mixers, and what a modulation ends in. All are convolutions.
PARTS = {
  'channel mixers': ('safm', 'to_'),
  'modulations': ('ccm', 'to_'),
}
KINDS = {'convolutions': 'conv', 'MLP': 'mlp', 'attention': 'attn'}
RANKS = (1, 2, 4, 16, 64)
PAIRS = (3, 5, 10, 20, 40)


def arms(
  fields_of: dict[str, dict[str, Any]], seed: int, where: str = 'DRealSR', backbone: str = 'SAFMN'
) -> list[promise.Arm]:
  return [
    promise.Arm(name, {**MEASURED, **fields}, backbone, where, seed, promise.STEPS[backbone])
    for name, fields in fields_of.items()
  ]


def adapters(backbone: str) -> dict[str, Any]:
  """Returns the fields of adapters at the rate that suits a network."""
  return {'optim.lr': promise.rate_of(backbone, 'rank-aware')}


def time(seed: int) -> list[promise.Arm]:
  """Figure 6; these are rows of 008, measured on the way."""
  return arms({'rank-aware': {**ADAPTERS, 'eval_every': 50}, 'full': {**FULL, 'eval_every': 50}}, seed)


def ranks(seed: int, backbone: str = 'SAFMN') -> list[promise.Arm]:
  """Table 2 and Figure 1: these ranks at every site, and their budgets shared out by gradient; see 008 for 8."""
  own = adapters(backbone)
  aware = {f'rank {rank}': {**own, 'lora.rank': rank, 'lora.r_max': 64} for rank in RANKS}
  # A budget of rank 1 leaves nothing to choose where every site is to have one.
  aware['rank 1']['lora.r_min'] = 0
  uniform = {f'uniform {rank}': {**own, 'lora.rank': rank, 'lora.rule': 'uniform'} for rank in RANKS}
  return arms({**aware, **uniform}, seed, backbone=backbone)


def kinds(seed: int) -> list[promise.Arm]:
  """Table 4: the parts of the network alone, by adapters and in full."""
  return arms(by_part({part: {'sites.kinds': ('conv',), 'sites.exclude': out} for part, out in PARTS.items()}), seed)


def windows(seed: int) -> list[promise.Arm]:
  """Table 4 on a network with attention in windows."""
  fields = by_part({part: {'sites.kinds': (kind,)} for part, kind in KINDS.items()})
  return arms(fields, seed, backbone='SwinIR')


def windows_own(seed: int) -> list[promise.Arm]:
  """The same at the rates that suit this network."""
  rates = {'LoRA': promise.rate_of('SwinIR', 'rank-aware'), 'full': promise.rate_of('SwinIR', 'full')}
  return [
    arm._replace(name=f'{arm.name}, own rate', fields={**arm.fields, 'optim.lr': rates[arm.name.split(', ')[1]]})
    for arm in windows(seed)
  ]


def by_part(sites: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
  """Returns the fields of adapters and of full fine-tuning for every choice of sites."""
  both = {'LoRA': ADAPTERS, 'full': FULL}
  return {f'{part}, {how}': {**own, **chosen} for part, chosen in sites.items() for how, own in both.items()}


def forms(seed: int, backbone: str = 'SAFMN') -> list[promise.Arm]:
  """Table 9: other forms of a convolution, with the parameters that '1x1_kxk' has of rank 8."""
  own = {**adapters(backbone), 'lora.budget': promise.BUDGETS[backbone]}
  return arms({form: {**own, 'lora.form': form} for form in ('kxk_1x1', 'loralib')}, seed, backbone=backbone)


def scores(seed: int, backbone: str = 'SAFMN') -> list[promise.Arm]:
  """Table 11: what ranks are allocated by."""
  kinds = ('random', 'fisher', 'activation')
  return arms({kind: {**adapters(backbone), 'score.kind': kind} for kind in kinds}, seed, backbone=backbone)


def pairs(seed: int) -> list[promise.Arm]:
  """How many pairs it takes, on EDSR; see 008 for all 79."""
  fields = promise.at_best('rank-aware', 'full')
  return [arm for number in PAIRS for arm in promise.of_edsr(fields, seed, f'{number} pairs')]


def pairs_safmn(seed: int) -> list[promise.Arm]:
  """The same on SAFMN."""
  return [arm for number in PAIRS for arm in arms(BOTH, seed, f'{number} pairs')]


def cameras(seed: int) -> list[promise.Arm]:
  """One camera is left out of training, and measured."""
  return [arm for camera in promise.CAMERAS for arm in arms(BOTH, seed, camera)]


def keeping(seed: int) -> list[promise.Arm]:
  """What is offered against forgetting, on cameras that were left out: fewer steps, more pictures, a longer average."""
  on_the_way = {'strengths': (0.8, 0.6), 'eval_every': 50}
  both = {f'{name}, on the way': {**own, **on_the_way} for name, own in BOTH.items()}
  average = {'rank-aware, average of 0.998': {**both['rank-aware, on the way'], 'optim.ema': 0.998}}
  made = []
  for camera in ('sony', 'panasonic'):
    made += arms({**both, **average}, seed, camera)
    made += arms(both, seed, f'{camera}, mixed with realesrgan')
  return made


def rapid(seed: int) -> list[promise.Arm]:
  """Section 4.3: pairs of one camera, in minutes, a quarter of them measured; beside it, with those of all cameras."""
  fields = {'eval_every': 100, 'strengths': (0.8,)}
  return [
    promise.Arm(f'{name}, rapid', {**own, **fields}, 'EDSR', f'{camera} {how}', seed, 600)
    for camera in ('DSC', 'P1', 'panasonic', 'sony')
    for how in ('alone', 'among all')
    for name, own in promise.at_own('EDSR', 'rank-aware', 'full').items()
  ]


def options(seed: int) -> list[promise.Arm]:
  """A higher rate for b than for a (LoRA+), and other courses of the rate."""
  fields = {
    'b at 4 times 1e-3': {'optim.lr': 1e-3, 'optim.b_lr_scale': 4.0},
    'cosine': {**ADAPTERS, 'optim.schedule': 'cosine'},
    'warm-up of 30 steps': {**ADAPTERS, 'optim.warmup': 30},
  }
  return arms(fields, seed)


TABLES = {
  'time': time,
  **{
    name if backbone == 'SAFMN' else f'{name}_{backbone.lower()}': functools.partial(table, backbone=backbone)
    for name, table in (('ranks', ranks), ('scores', scores), ('forms', forms))
    for backbone in promise.BUDGETS
  },
  'pairs': pairs,
  'pairs_safmn': pairs_safmn,
  'kinds': kinds,
  'windows': windows,
  'windows_own': windows_own,
  'options': options,
  'cameras': cameras,
  'keeping': keeping,
  'rapid': rapid,
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('tables', nargs='*', choices=[[], *TABLES], help='default: all')
  promise.add_flags(parser, HERE)
  parser.add_argument('--photos', required=True, type=Path, help='HR photographs, for `keeping`')
  parser.add_argument('--weights', default='', help='folder with the weights of LPIPS')
  parser.add_argument('--seeds', type=int, default=2)
  parser.add_argument('--steps', type=int, help='of all runs; default: their own')
  args = parser.parse_args()
  rows: dict[str, list[dict]] = {}
  for seed in range(args.seeds):
    for table in args.tables or TABLES:
      for arm in TABLES[table](seed):
        rows.setdefault(table, []).append(promise.done(arm._replace(steps=args.steps or arm.steps), args))
        (args.out / f'{table}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows[table]))


if __name__ == '__main__':
  main()
