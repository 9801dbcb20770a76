"""Did it help? Numbers put into plain sentences, with what speaks against them and what to try."""

import math
import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from adaptsr_jax.adapt import optim
from adaptsr_jax.evaluate import verdict as pictures
from adaptsr_jax.evaluate.tables import lower_is_better
from adaptsr_jax.log import clock
from adaptsr_jax.report import gather
from adaptsr_jax.report.gather import Interval, Run, System
from adaptsr_jax.report.pictures import Look

METRIC = 'psnr_y'  # what the verdict goes by
NAMES = {'psnr_y': 'PSNR (Y)', 'ssim_y': 'SSIM (Y)', 'psnr_rgb': 'PSNR (RGB)', 'ssim_rgb': 'SSIM (RGB)'}
# Pictures from which on a bootstrap may be taken at its word.
_ROUGH = 20


class Verdict(NamedTuple):
  """What a reader should take away of one adapted network."""

  kind: str  # 'helped', 'hurt', 'unclear' or 'untrained'
  headline: str
  says: str  # what single pictures say
  detail: str  # the interval, and what it rests on; may be empty
  gain: Interval
  spread: pictures.Spread
  remarks: list[str]  # what speaks against the headline, or limits it
  advice: list[str]  # what to try; empty where it helped
  facts: dict[str, str]  # the gain in figures, and what it took


def judge(system: System, look: Look | None) -> Verdict:
  """Judges an adapted network against its base by PSNR (Y)."""
  run, base = system.run, system.base
  gain = gather.gain(system, base, METRIC)
  each = gather.gains(system, base, METRIC)
  spread, kind = pictures.spread(each), _kind(run, gain)
  remarks = _remarks(system, len(each), look)
  advice = _advice(run, kind, spread) if kind in ('hurt', 'unclear') else []
  if kind == 'untrained':
    says, detail = f'Measured on {plural(len(each), "picture")}.', ''
  elif not math.isfinite(gain.low):
    says, detail = 'Measured on one picture, which says nothing about others: an interval needs two.', ''
  else:
    says = ' '.join(pictures.words(spread, run.results['adapted'], base.run.results['base'], signed))
    detail = _detail(kind, gain)
  return Verdict(
    kind, _headline(kind, gain, spread), says, detail, gain, spread, remarks, advice, _facts(run, gain, spread)
  )


def compare(system: System, first: System) -> str:
  """Returns a sentence on two adapted networks."""
  gain = gather.gain(system, first, METRIC)
  mean, low, high = (signed(value, _digits(gain)) for value in gain[:3])
  if not math.isfinite(gain.low):
    return f'{system.label} is {mean} dB against {first.label}.'
  holds = ', a difference that holds over the pictures' if gain.certain else ': no difference that these pictures show'
  return f'{system.label} is {mean} dB (95 % interval {low} to {high}) against {first.label}{holds}.'


def signed(value: float, digits: int = 2) -> str:
  """Returns a number with its sign, the minus as long as the plus."""
  return f'{round(value, digits) + 0.0:+.{digits}f}'.replace('-', '\N{MINUS SIGN}')


def plural(number: int, word: str) -> str:
  """Returns e.g. '1 picture', '3 pictures'."""
  return f'{number:,} {word}{"s" * (number != 1)}'


def _kind(run: Run, gain: Interval) -> str:
  if not run.results['steps']:
    return 'untrained'
  if not gain.certain:
    return 'unclear'
  return 'helped' if gain.mean > 0 else 'hurt'


def _headline(kind: str, gain: Interval, spread: pictures.Spread) -> str:
  amount = f'{signed(gain.mean, _digits(gain))} dB PSNR (Y) against the base'
  it = 'Most pictures gained, but it' if spread.rising else 'It'
  return {
    'untrained': 'Nothing was trained: a run of 0 steps measures the base.',
    'helped': f'The adaptation helped: {amount}.',
    'hurt': f'The adaptation did harm: {amount}.',
    'unclear': f'{it} is not clear that the adaptation helped: {amount}.',
  }[kind]


def _detail(kind: str, gain: Interval) -> str:
  low, high = (signed(value, _digits(gain)) for value in gain[1:3])
  says = ', without 0'
  if kind == 'unclear' and gain.low * gain.high > 0:
    says = ', but from too few pictures to speak for others'
  elif kind == 'unclear':
    says = ', which includes 0: more or other pictures may turn it round'
  return f'The 95 % interval is {low} to {high} dB{says}.'


def _digits(gain: Interval) -> int:
  return 2 if abs(gain.mean) >= 0.095 else 3


def _facts(run: Run, gain: Interval, spread: pictures.Spread) -> dict[str, str]:
  trained, total = run.results['trainable_parameters'], run.results['total_parameters']
  mean, low, high = (signed(value, _digits(gain)) for value in gain[:3])
  return {
    'Gain in PSNR (Y)': f'{mean} dB',
    '95 % interval': f'{low} to {high}' if math.isfinite(gain.low) else 'needs two pictures',
    'Pictures that gained': f'{spread.gained} of {spread.pictures}',
    'Trained parameters': f'{trained:,} ({100 * trained / total:.1f} %)',
    'Training time': clock(run.results['seconds']),
  }


def _remarks(system: System, number: int, look: Look | None) -> list[str]:
  run, remarks = system.run, []
  left_out = len(system.scores) - number
  if 1 < number < _ROUGH:
    remarks.append(
      f'The interval comes from {number} pictures. With so few it is a rough guide, rather too narrow than too wide.'
    )
  if left_out:
    remarks.append(f'{plural(left_out, "picture")} left out: an output that equals its HR has no finite PSNR.')
  if run.results['steps'] and run.material.get('training pictures') == run.material.get('validation pictures'):
    remarks.append('It was measured on the pictures it was trained on, so the gain says nothing about other pictures.')
  if run.config.export == 'best' and run.results.get('best'):
    remarks.append(
      'The state was chosen as the best on the same pictures that measure it, so the gain flatters itself.'
    )
  remarks += _disagreements(system, system.base)
  remarks += _colour_remark(system, system.base, look)
  if look and look.drift > 0.01:
    remarks.append(
      f'Made again for this page, the pictures differ from the recorded measurements by up to {look.drift:.2f} dB: '
      'another device or another version.'
    )
  return remarks


def _disagreements(system: System, base: System) -> list[str]:
  """Names metrics that certainly go the other way than PSNR (Y)."""
  direction = gather.gain(system, base, METRIC).mean
  remarks = []
  for metric in set(gather.metrics_of(system)) & set(gather.metrics_of(base)) - {METRIC}:
    gain = gather.gain(system, base, metric)
    improved = (gain.mean < 0) == lower_is_better(metric)
    if gain.certain and improved != (direction > 0):
      remarks.append(
        f'{NAMES.get(metric, metric.upper())} disagrees: by it the adapted pictures are '
        f'{"better" if improved else "worse"} ({signed(gain.mean, 4)}).'
      )
  return sorted(remarks)


def _colour_remark(system: System, base: System, look: Look | None) -> list[str]:
  pairs = [(look.colours.get((s.label, 'HR')) if look else None) for s in (system, base)]
  if None in pairs or pairs[0].delta_e < pairs[1].delta_e + 0.5:
    return []
  return [
    f'Colours moved away from HR: the mean colour is {pairs[0].delta_e:.1f} from it (CIE Lab), '
    f'that of the base {pairs[1].delta_e:.1f}.'
  ]


def _advice(run: Run, kind: str, spread: pictures.Spread) -> list[str]:
  c, number = run.config, spread.pictures
  advice = []
  if spread.decides:
    advice.append(
      f'A look at {spread.decides}, which decides the mean: whether its LR and HR agree in exposure, and whether there '
      'are training pictures as dark or bright as it is.'
    )
  # Where most pictures gain, the steps are not at fault.
  if not spread.rising:
    peak = optim.peak_rate(c, run.results)
    lower = f'A lower learning rate: it was {peak:.2g}; try `--config.optim.lr={peak / 3:.1g}`.'
    advice += [*_earlier(run), lower]
  if not spread.rising and not c.optim.clip:
    advice.append('Clipping of the gradient was off, so one bad batch can undo the rest: `--config.optim.clip=1`.')
  if not spread.rising and not c.optim.ema:
    advice.append('No average of the weights was kept, so the last batches decide: `--config.optim.ema=0.99`.')
  counts = re.findall(r'(\d+) pairs', run.material.get('training pictures', ''))
  if counts:
    advice.append(f'More training pictures: there are {sum(map(int, counts))}.')
  if kind == 'unclear' and number < _ROUGH:
    advice.append(f'More validation pictures: with {number} only large gains are certain.')
  folders = c.data.train
  if folders.lr:
    command = shlex.join(['python', '-m', 'adaptsr_jax.doctor', f'--lr={folders.lr}', f'--hr={folders.hr}'])
    advice.append(f'Pairs that lie apart, or differ in exposure, teach the wrong thing; look for them by `{command}`.')
  return advice


def _earlier(run: Run) -> Sequence[str]:
  """Points at a state on the way that was better than the last."""
  measured = [(row['valid/psnr_y'], row['step']) for row in run.history if 'valid/psnr_y' in row]
  best = max(measured, default=None)
  if not best or best[0] < max(measured[-1][0], run.results['base']['mean']['psnr_y']) + 0.02:
    return []
  return [
    f'Validation was best at step {best[1]} of {run.results["steps"]} ({best[0]:.2f} dB, at the end '
    f'{measured[-1][0]:.2f}): the same command with `--config.export=best` exports that state.'
  ]
