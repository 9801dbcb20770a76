"""Networks of Real-ESRGAN, BSRGAN and DASR through the real commands: adapt, upscale, lam, report, convert."""

import json

import numpy as np
import pytest

from adaptsr_jax import adapt, base, config, convert, image, lam, params_folder, upscale
from adaptsr_jax.convert import __main__ as convert_command
from adaptsr_jax.report import __main__ as report
from tests.pictures import write_pairs

# Preset, what makes it small, and its scale.
NETWORKS = {
  'rrdb, unshuffled': ('rrdb_x2', {'num_feat': 6, 'num_block': 1, 'num_grow_ch': 4}, 2),
  'srvgg': ('srvgg_x4', {'num_feat': 6, 'num_conv': 2}, 4),
  'dasr': ('dasr_x4', {'num_feat': 6, 'num_block': 1, 'num_models': 3, 'nf': 4, 'num_params': 5}, 4),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_adapted_enlarged_attributed_reported_converted(name, tmp_path):
  preset, fields, scale = NETWORKS[name]
  lr, hr = write_pairs(tmp_path, 2, scale, 32 * scale)
  random = base.random(preset, 0, fields)
  before = tmp_path / 'before.pth'
  base.export(before, random, random.params)
  c = config.default()
  c.update_from_flattened_dict({
    'base': str(before), 'steps': 2, 'batch_size': 2, 'patch': 32, 'lora.budget': 0, 'lora.rank': 2, 'optim.lr': 0.01,
    'remat': preset.startswith('rrdb'), 'tensorboard': False, 'data.workers': 0,
    **{f'data.{part}.{side}': str(folder) for part in ('train', 'valid') for side, folder in (('lr', lr), ('hr', hr))},
  })  # fmt: skip
  run = tmp_path / 'run'
  adapt.run(c, run)

  # What is given back is what was measured, in the keys of the file that came.
  merged = base.load(run / 'merged.pth')
  params, _ = params_folder.load_params(run / 'merged')
  for theirs, ours in zip(_leaves(merged.params), _leaves(params), strict=True):
    np.testing.assert_array_equal(theirs, ours)
  assert convert.read(run / 'merged.pth').keys() == convert.read(before).keys()
  assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(_leaves(params), _leaves(random.params), strict=True))

  photo, tiled, whole = lr / 'p00.png', tmp_path / 'tiled.png', tmp_path / 'whole.png'
  adapter = f'--adapter={run / "adapter.safetensors"}'
  assert upscale.main([f'--params={run / "merged.pth"}', '--tile=24', '--overlap=4', str(photo), str(tiled)]) == 0
  assert upscale.main([f'--params={before}', adapter, '--tile=-1', str(photo), str(whole)]) == 0
  pictures = [image.read(path).rgb for path in (photo, tiled, whole)]
  assert pictures[1].shape == (32 * scale, 32 * scale, 3) == pictures[2].shape
  assert np.abs(pictures[1] - pictures[2]).max() <= 2 / 255

  networks = [f'--params=before={before}', f'--params=after={run / "merged"}']
  assert lam.main([*networks, '--picture', str(photo), '--context=16', '--out', str(tmp_path / 'lam.png')]) == 0
  assert {'before', 'after'} <= set(json.dumps(json.loads((tmp_path / 'lam.json').read_text())).split('"'))
  assert report.main([str(run), f'--out={tmp_path / "report"}']) == 0
  assert (tmp_path / 'report' / 'report.html').stat().st_size > 10_000
  half = tmp_path / 'half.safetensors'
  assert convert_command.main([str(run / 'merged'), str(half), '--dtype=float16']) == 0
  assert base.load(half).name == merged.name


def _leaves(tree):
  return [tree] if not isinstance(tree, dict) else [leaf for key in sorted(tree) for leaf in _leaves(tree[key])]
