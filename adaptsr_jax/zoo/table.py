"""The table of published weights: where they are, what they may be used for, what they reach."""

from typing import NamedTuple


class Entry(NamedTuple):
  """Weights that somebody published.

  Attributes:
    file: name in the cache.
    url: direct download; '' where only a person with a browser can get the file.
    licence: of the repository that publishes the weights.
    trained: degradation, and pictures.
    psnr: published PSNR on Set5 in dB (Y, border of `upscale` pixels cut off), or None.
    sha256: hexadecimal digits, all or the leading ones; '' where no two independent sources tell it.
    page: where a person finds the file.
  """

  file: str
  url: str
  licence: str
  trained: str
  psnr: float | None = None
  sha256: str = ''
  page: str = ''


_SWINIR = 'https://github.com/JingyunLiang/SwinIR/releases/download/v0.0/'
_EDSR = 'https://cv.snu.ac.kr/research/EDSR/models/'
_SAFMN = 'https://huggingface.co/Meloo/SAFMN/resolve/main/'
_SAFMN_PAGE = 'https://drive.google.com/drive/folders/12O_xgwfgc76DsYbiClYnl6ErCDrsi_S9'
_SAFMN_RELEASE = 'https://github.com/sunny2109/SAFMN/releases/download/v0.1.0/'
_SAFMN_NTIRE = (
  'https://github.com/sunny2109/SAFMN/raw/c534a148912851f076de56682c1fc9656e76e893/'
  'NTIRE2023_ESR/model_zoo/team15_SAFMN.pth'
)
_DRCT_L_WEB = 'https://github.com/Phhofm/models/releases/download/4xRealWebPhoto_v4_drct-l/4xRealWebPhoto_v4_drct-l.pth'


def _swinir(file: str, trained: str, psnr: float | None = None, sha256: str = '') -> Entry:
  return Entry(file, _SWINIR + file, 'Apache-2.0', trained, psnr, sha256)


def _safmn(file: str, trained: str, psnr: float | None = None, sha256: str = '') -> Entry:
  return Entry(file, _SAFMN + file, 'Apache-2.0', trained, psnr, sha256, _SAFMN_PAGE)


def _safmn_release(file: str) -> Entry:
  return Entry(file, _SAFMN_RELEASE + file, 'Apache-2.0', 'real-world, LSDIR')


def _edsr(file: str, psnr: float) -> Entry:
  # By the custom of torch.hub, the file name ends in the leading digits of the SHA-256.
  return Entry(file, _EDSR + file, 'MIT', 'bicubic, DIV2K', psnr, file.removesuffix('.pt').rpartition('-')[2])


def _edsr_basicsr(file: str, drive: str) -> Entry:
  digits = file.removesuffix('.pth').rpartition('-')[2]
  return Entry(file, '', 'Apache-2.0', 'bicubic, DIV2K', None, digits, _drive(drive))


def _drive(number: str) -> str:
  return f'https://drive.google.com/file/d/{number}/view'


ZOO: dict[str, Entry] = {
  'swinir_classical_x2': _swinir('001_classicalSR_DF2K_s64w8_SwinIR-M_x2.pth', 'bicubic, DF2K, LR patch 64', 38.42),
  'swinir_classical_x3': _swinir('001_classicalSR_DF2K_s64w8_SwinIR-M_x3.pth', 'bicubic, DF2K, LR patch 64', 34.97),
  'swinir_classical_x4': _swinir(
    '001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth',
    'bicubic, DF2K, LR patch 64',
    32.92,
    '4e78e33f22c1aa8a773db0cf4a7381bae97c2362c717f155439ebc690cbd9215',
  ),
  'swinir_classical_x8': _swinir('001_classicalSR_DF2K_s64w8_SwinIR-M_x8.pth', 'bicubic, DF2K, LR patch 64'),
  'swinir_classical_div2k_x2': _swinir(
    '001_classicalSR_DIV2K_s48w8_SwinIR-M_x2.pth', 'bicubic, DIV2K, LR patch 48', 38.35
  ),
  'swinir_classical_div2k_x3': _swinir(
    '001_classicalSR_DIV2K_s48w8_SwinIR-M_x3.pth', 'bicubic, DIV2K, LR patch 48', 34.89
  ),
  'swinir_classical_div2k_x4': _swinir(
    '001_classicalSR_DIV2K_s48w8_SwinIR-M_x4.pth', 'bicubic, DIV2K, LR patch 48', 32.72
  ),
  'swinir_classical_div2k_x8': _swinir('001_classicalSR_DIV2K_s48w8_SwinIR-M_x8.pth', 'bicubic, DIV2K, LR patch 48'),
  'swinir_light_x2': _swinir('002_lightweightSR_DIV2K_s64w8_SwinIR-S_x2.pth', 'bicubic, DIV2K, LR patch 64', 38.14),
  'swinir_light_x3': _swinir('002_lightweightSR_DIV2K_s64w8_SwinIR-S_x3.pth', 'bicubic, DIV2K, LR patch 64', 34.62),
  'swinir_light_x4': _swinir(
    '002_lightweightSR_DIV2K_s64w8_SwinIR-S_x4.pth',
    'bicubic, DIV2K, LR patch 64',
    32.44,
    '09fad24e32ae62722e1a055efde9921328f4137981bab0a42a4a3a806306c58e',
  ),
  'swinir_real_x2': _swinir('003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x2_GAN.pth', 'real-world (BSRGAN), DFO, adversarial'),
  'swinir_real_psnr_x2': _swinir(
    '003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x2_PSNR.pth', 'real-world (BSRGAN), DFO, PSNR-oriented'
  ),
  'swinir_real_x4': _swinir(
    '003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_GAN.pth',
    'real-world (BSRGAN), DFO, adversarial',
    sha256='b9afb61e65e04eb7f8aba5095d070bbe9af28df76acd0c9405aeb33b814bcfc6',
  ),
  'swinir_real_psnr_x4': _swinir(
    '003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_PSNR.pth',
    'real-world (BSRGAN), DFO, PSNR-oriented',
    sha256='1fd8fed99684bd271db55563e4906d36459cf535446820053f7a1081d4781dc5',
  ),
  'swinir_real_l_x4': _swinir(
    '003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth',
    'real-world (BSRGAN), DFOWMFC, adversarial',
    sha256='99adfa91350a84c99e946c1eb3d8fce34bc28f57d807b09dc8fe40a316328c0a',
  ),
  'swinir_real_l_psnr_x4': _swinir(
    '003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_PSNR.pth',
    'real-world (BSRGAN), DFOWMFC, PSNR-oriented',
    sha256='450be6eac63a59959b55a83df6743444de9f018547f81d16f699b3680d366ad7',
  ),
  # At the same size; those for gray pictures are given the colours of others one by one.
  **{
    f'swinir_{gray}denoise{sigma}': _swinir(
      f'{file}_DFWB_s128w8_SwinIR-M_noise{sigma}.pth', f'noise of sigma {sigma}, DFWB'
    )
    for gray, file in (('', '005_colorDN'), ('gray_', '004_grayDN'))
    for sigma in (15, 25, 50)
  },
  **{
    f'swinir_{gray}jpeg{quality}': _swinir(
      f'{file}_DFWB_s126w7_SwinIR-M_jpeg{quality}.pth', f'JPEG of quality {quality}, DFWB'
    )
    for gray, file in (('', '006_colorCAR'), ('gray_', '006_CAR'))
    for quality in (10, 20, 30, 40)
  },
  'safmn_x2': _safmn('SAFMN_DF2K_x2.pth', 'bicubic, DF2K', 38.00),
  'safmn_x3': _safmn('SAFMN_DF2K_x3.pth', 'bicubic, DF2K', 34.34),
  'safmn_x4': _safmn(
    'SAFMN_DF2K_x4.pth', 'bicubic, DF2K', 32.18, 'fe4f38fd6c1e3692bfbc6ab94f44adb815bfb54984b8886547657727af67f49d'
  ),
  'safmn_l_x2': _safmn('SAFMN_L_DF2K_x2.pth', 'bicubic, DF2K', 38.28),
  'safmn_l_x3': _safmn('SAFMN_L_DF2K_x3.pth', 'bicubic, DF2K', 34.80),
  'safmn_l_x4': _safmn('SAFMN_L_DF2K_x4.pth', 'bicubic, DF2K', 32.65),
  'safmn_l_real_x4': _safmn('SAFMN_L_Real_x4.pth', 'real-world'),
  'safmn_l_real_lsdir_x2': _safmn_release('SAFMN_L_Real_LSDIR_x2.pth'),
  'safmn_l_real_lsdir_v2_x2': _safmn_release('SAFMN_L_Real_LSDIR_x2-v2.pth'),
  'safmn_l_real_lsdir_v2_x4': _safmn_release('SAFMN_L_Real_LSDIR_x4-v2.pth'),
  'safmn_ntire2023_x4': Entry(
    'team15_SAFMN.pth',
    _SAFMN_NTIRE,
    'MIT',
    'bicubic, NTIRE 2023 efficient SR',
    sha256='93fe3d7175ef1446cfcb3a884ddf8bbb4391f31190e9d1bf6c6c1cb768f8b565',
  ),
  'edsr_baseline_x2': _edsr('edsr_baseline_x2-1bc95232.pt', 37.99),
  'edsr_baseline_x3': _edsr('edsr_baseline_x3-abf2a44e.pt', 34.37),
  'edsr_baseline_x4': _edsr('edsr_baseline_x4-6b446fab.pt', 32.09),
  'edsr_x2': _edsr('edsr_x2-0edfb8a3.pt', 38.11),
  'edsr_x3': _edsr('edsr_x3-ea3ef2c6.pt', 34.65),
  'edsr_x4': _edsr('edsr_x4-4f62e9ef.pt', 32.46),
  # The same networks with the key names of BasicSR, measured there in RGB: 35.7768, 32.3597 and 30.1821 dB on Set5 for
  # the baselines, 35.9979, 32.643 and 30.5499 dB for the large ones.
  'edsr_basicsr_baseline_x2': _edsr_basicsr(
    'EDSR_Mx2_f64b16_DIV2K_official-3ba7b086.pth', '1mREMGVDymId3NzIc2u90sl_X4-pb4ZcV'
  ),
  'edsr_basicsr_baseline_x3': _edsr_basicsr(
    'EDSR_Mx3_f64b16_DIV2K_official-6908f88a.pth', '1EriqQqlIiRyPbrYGBbwr_FZzvb3iwqz5'
  ),
  'edsr_basicsr_baseline_x4': _edsr_basicsr(
    'EDSR_Mx4_f64b16_DIV2K_official-0c287733.pth', '1bCK6cFYU01uJudLgUUe-jgx-tZ3ikOWn'
  ),
  'edsr_basicsr_x2': _edsr_basicsr('EDSR_Lx2_f256b32_DIV2K_official-be38e77d.pth', '15257lZCRZ0V6F9LzTyZFYbbPrqNjKyMU'),
  'edsr_basicsr_x3': _edsr_basicsr('EDSR_Lx3_f256b32_DIV2K_official-3660f70d.pth', '18q_D434sLG_rAZeHGonAX8dkqjoyZ2su'),
  'edsr_basicsr_x4': _edsr_basicsr('EDSR_Lx4_f256b32_DIV2K_official-76ee1c8f.pth', '1GCi30YYCzgMCcgheGWGusP9aWKOAy5vl'),
  'drct_x4': Entry('DRCT_X4.pth', '', 'MIT', 'bicubic', 33.11, page=_drive('1jw2UWAersWZecPq-c_g5RM3mDOoc_cbd')),
  'drct_l_x4': Entry('DRCT-L_X4.pth', '', 'MIT', 'bicubic', 33.37, page=_drive('1bVxvA6QFbne2se0CQJ-jyHFy94UOi3h5')),
  'drct_l_realwebphoto_x4': Entry('4xRealWebPhoto_v4_drct-l.pth', _DRCT_L_WEB, 'CC-BY-4.0', 'real-world, third party'),
}
