"""The PyTorch side of `benchmarks.against_pytorch`, in an environment with torch, spandrel and peft but without jax.

  python pytorch_steps.py MODEL BATCH PATCH RANK THREADS

Prints a line of JSON about itself; then, for each line of stdin, the name of a row, [seconds, CPU seconds] of a call.
"""

import json
import sys
import time

import torch
from torch import nn

try:
  import torchvision  # noqa: F401, spandrel imports it
except RuntimeError:  # beside a CPU build of torch it misses operators, which no network here calls
  for operator in ('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor', 'qnms(Tensor a) -> Tensor'):
    torch.library.define(f'torchvision::{operator.partition("(")[0]}', f'({operator.partition("(")[2]}')


class EDSR(nn.Module):
  """EDSR-baseline x4 (Lim et al., CVPR Workshops 2017): 16 residual blocks of 64 channels."""

  def __init__(self, width: int = 64, blocks: int = 16):
    super().__init__()

    def conv(cin: int, cout: int) -> nn.Conv2d:
      return nn.Conv2d(cin, cout, 3, padding=1)

    self.first = conv(3, width)
    self.body = nn.ModuleList(nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width)) for _ in range(blocks))
    self.after = conv(width, width)
    enlarge = [layer for _ in range(2) for layer in (conv(width, 4 * width), nn.PixelShuffle(2))]
    self.head = nn.Sequential(*enlarge, conv(width, 3))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    first = y = self.first(x)
    for block in self.body:
      y = y + block(y)
    return self.head(self.after(y) + first)


def network(name: str) -> nn.Module:
  """Returns the network that `against_pytorch.CASES` calls `name`, with random weights."""
  if name == 'edsr_baseline_x4':
    return EDSR()
  if name == 'safmn_x4':
    from spandrel.architectures.SAFMN import SAFMN

    return SAFMN(dim=36, n_blocks=8, ffn_scale=2.0, upscaling_factor=4)
  if name == 'rrdb_x4':
    from spandrel.architectures.ESRGAN import ESRGAN

    return ESRGAN(num_filters=64, num_blocks=23, scale=4)
  if name == 'srvgg_x4':
    from spandrel.architectures.Compact import Compact

    return Compact(num_feat=64, num_conv=32, upscale=4)
  common = {'upscale': 4, 'img_range': 1.0, 'img_size': 64, 'mlp_ratio': 2.0, 'drop_path_rate': 0.0}
  if name == 'swinir_light_x4':
    from spandrel.architectures.SwinIR import SwinIR

    widths = {'embed_dim': 60, 'depths': [6] * 4, 'num_heads': [6] * 4, 'window_size': 8}
    return SwinIR(upsampler='pixelshuffledirect', **widths, **common)
  from spandrel.architectures.DRCT import DRCT

  widths = {'embed_dim': 60, 'depths': (6,) * 2, 'num_heads': (6,) * 2, 'window_size': 8, 'gc': 16}
  return DRCT(upsampler='pixelshuffle', **widths, **common)


def adapted(model: nn.Module, rank: int) -> nn.Module:
  """Returns `model` with a LoRA adapter of PEFT in every linear layer and every convolution that is not grouped."""
  from peft import LoraConfig, get_peft_model

  layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
  names = [name for name, layer in layers if getattr(layer, 'groups', 1) == 1]
  return get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=names, lora_dropout=0.0))


class Rows:
  """What can be asked for, built when it is asked for first."""

  def __init__(self, name: str, batch: int, patch: int, rank: int):
    self._name, self._rank = name, rank
    self._device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.manual_seed(0)
    self._lr = torch.rand(batch, 3, patch, patch, device=self._device)
    self._hr = torch.rand(batch, 3, 4 * patch, 4 * patch, device=self._device)
    self._calls = {}

  def call(self, row: str) -> tuple[float, float]:
    """Runs `row` once; returns seconds and CPU seconds."""
    if row not in self._calls:
      self._calls[row] = self._built(row)
      self._calls[row]()  # the first call sets things up
    self._wait()
    wall, cpu = time.perf_counter(), time.process_time()
    self._calls[row]()
    self._wait()
    return time.perf_counter() - wall, time.process_time() - cpu

  def _wait(self) -> None:
    if self._device.type == 'cuda':
      torch.cuda.synchronize()

  def _built(self, row: str):
    kind, _, compiled = row.partition(' ')
    model = network(self._name).to(self._device)
    if kind == 'lora':
      model = adapted(model, self._rank)
    run = torch.compile(model) if compiled else model
    if kind == 'inference':
      model.eval()

      def infer():
        with torch.inference_mode():
          run(self._lr)

      return infer
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step():
      optimizer.zero_grad(set_to_none=True)
      loss = (run(self._lr) - self._hr).abs().mean()
      loss.backward()
      optimizer.step()

    return step


def main() -> None:
  name, *numbers = sys.argv[1:]
  batch, patch, rank, threads = map(int, numbers)
  torch.set_num_threads(threads)
  rows = Rows(name, batch, patch, rank)
  print(json.dumps({'torch': torch.__version__, 'cuda': torch.cuda.is_available(), 'threads': threads}), flush=True)
  for line in sys.stdin:
    print(json.dumps(rows.call(line.strip())), flush=True)


if __name__ == '__main__':
  main()
