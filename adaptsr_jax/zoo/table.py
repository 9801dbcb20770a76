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
    sha256: hexadecimal digits, all or the leading ones; '' where none is known.
    page: where a person finds the file.
    key: which weights of the file the authors use, where it holds several; '' for the usual choice.
  """

  file: str
  url: str
  licence: str
  trained: str
  psnr: float | None = None
  sha256: str = ''
  page: str = ''
  key: str = ''


# What may be done with weights under their licence, in short; the text of the licence is what counts.
LICENCES = {
  'Apache-2.0': 'use, change and pass on, for money too; keep the licence and the notices, say what was changed',
  'BSD-3-Clause': 'use, change and pass on, for money too; keep the notice, name no author in advertisements',
  'MIT': 'use, change and pass on, for money too; keep the notice',
  'CC-BY-4.0': 'use, change and pass on, for money too; name the author',
}


_SWINIR = 'https://github.com/JingyunLiang/SwinIR/releases/download/v0.0/'
_EDSR = 'https://cv.snu.ac.kr/research/EDSR/models/'
_SAFMN = 'https://huggingface.co/Meloo/SAFMN/resolve/main/'
_SAFMN_PAGE = 'https://drive.google.com/drive/folders/12O_xgwfgc76DsYbiClYnl6ErCDrsi_S9'
_SAFMN_RELEASE = 'https://github.com/sunny2109/SAFMN/releases/download/v0.1.0/'
_SAFMN_NTIRE = (
  'https://github.com/sunny2109/SAFMN/raw/c534a148912851f076de56682c1fc9656e76e893/'
  'NTIRE2023_ESR/model_zoo/team15_SAFMN.pth'
)
_REALESRGAN = 'https://github.com/xinntao/Real-ESRGAN/releases/download/'
_KAIR = 'https://github.com/cszn/KAIR/releases/download/v1.0/'
_LDL = 'https://drive.google.com/drive/folders/1RGTTs9f9qIBmS-7aGzADks78H65ls-r4'
_DASR = 'https://drive.google.com/drive/folders/18TuFlx5Fp9W9dDHQ-LyNFae5vakpjGq-'
_DRCT_L_WEB = 'https://github.com/Phhofm/models/releases/download/4xRealWebPhoto_v4_drct-l/4xRealWebPhoto_v4_drct-l.pth'


def _swinir(file: str, trained: str, psnr: float | None = None) -> Entry:
  return Entry(file, _SWINIR + file, 'Apache-2.0', trained, psnr)


def _safmn(file: str, trained: str, psnr: float | None = None) -> Entry:
  return Entry(file, _SAFMN + file, 'Apache-2.0', trained, psnr, page=_SAFMN_PAGE)


def _safmn_real(base: str, file: str) -> Entry:
  return Entry(file, base + file, 'Apache-2.0', 'real-world, LSDIR, adversarial', key='params')


def _realesrgan(release: str, file: str, trained: str, key: str = 'params') -> Entry:
  return Entry(file, f'{_REALESRGAN}{release}/{file}', 'BSD-3-Clause', trained, key=key)


def _kair(file: str, trained: str) -> Entry:
  return Entry(file, _KAIR + file, 'Apache-2.0', trained)


def _ldl(name: str, trained: str) -> Entry:
  return Entry(f'net_g_{name}.pth', '', 'Apache-2.0', trained, page=_LDL, key='params')


def _edsr(file: str, psnr: float) -> Entry:
  # By the custom of torch.hub, the file name ends in the leading digits of the SHA-256.
  return Entry(file, _EDSR + file, 'MIT', 'bicubic, DIV2K', psnr, file.removesuffix('.pt').rpartition('-')[2])


def _edsr_basicsr(file: str, drive: str) -> Entry:
  digits = file.removesuffix('.pth').rpartition('-')[2]
  return Entry(file, '', 'Apache-2.0', 'bicubic, DIV2K', None, digits, _drive(drive))


def _drive(number: str) -> str:
  return f'https://drive.google.com/file/d/{number}/view'


def _ours(name: str, psnr: float, sha256: str) -> Entry:
  pictures = 'bicubic, CID22 (CC BY-SA 4.0) and CLIC 2025 (Unsplash licence)'
  return Entry(f'{name}.safetensors', '', 'Apache-2.0', pictures, psnr, sha256)


# Those that come with the package, in assets/; README.md there says more of them.
_OURS = {
  'drct_x4': (30.24, 'de62e38a064f512e59a4bacfb1e493b3aeab3b5a4aa24370abfbff10b921dce1'),
  'edsr_x4': (31.14, '00e5a4ba51e9a61d05e94aaedc2b9e3b3c69bed42eb9c3538a0a8293e285d35b'),
  'safmn_x4': (31.24, 'd63c89f3d0d413db7509e863a347445426ac759d54b6842c5ea5229a3c2a85f1'),
  'swinir_x4': (31.04, 'a0a481d91b0d06ced5b11f95124f1d509760bd0c0c52d4de865918cdfdccd318'),
}
ASSETS = {name: _ours(name, *known) for name, known in _OURS.items()}


# All digits, or the leading ones as the name of the file has them.
_SHA256 = {
  'swinir_classical_x4': '4e78e33f22c1aa8a773db0cf4a7381bae97c2362c717f155439ebc690cbd9215',
  'swinir_light_x4': '09fad24e32ae62722e1a055efde9921328f4137981bab0a42a4a3a806306c58e',
  'swinir_real_x4': 'b9afb61e65e04eb7f8aba5095d070bbe9af28df76acd0c9405aeb33b814bcfc6',
  'swinir_real_psnr_x4': '1fd8fed99684bd271db55563e4906d36459cf535446820053f7a1081d4781dc5',
  'swinir_real_l_x4': '99adfa91350a84c99e946c1eb3d8fce34bc28f57d807b09dc8fe40a316328c0a',
  'swinir_real_l_psnr_x4': '450be6eac63a59959b55a83df6743444de9f018547f81d16f699b3680d366ad7',
  'safmn_x4': 'fe4f38fd6c1e3692bfbc6ab94f44adb815bfb54984b8886547657727af67f49d',
  'safmn_l_real_lsdir_x2': 'a0d838b197dcaedb58cb317bcc3bd2704cd4733083e1eb10d7eac56eb2ea6820',
  'safmn_l_real_lsdir_x4': 'f1ac0ee3ee143fbbc49aff6584cb7b48b71ba8d1961dfb8ad076b98ca4799ae2',
  'safmn_l_real_lsdir_v2_x4': 'f1ac0ee3ee143fbbc49aff6584cb7b48b71ba8d1961dfb8ad076b98ca4799ae2',
  'safmn_ntire2023_x4': '93fe3d7175ef1446cfcb3a884ddf8bbb4391f31190e9d1bf6c6c1cb768f8b565',
  'realesrgan_x4': '4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1',
  'realesrnet_x4': 'a820b9bde89a874d7599d545567308ce6c128fc8754a53208eda016d40aa81df',
  'realesrgan_x2': '49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb',
  'realesrgan_anime_x4': 'f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da',
  'realesr_general_x4': '8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292',
  'realesr_general_wdn_x4': '1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca',
  'realesr_animevideo_x4': 'b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d',
  'realesr_animevideo_v2_x2': '27985aa2198711ecd72f9bb274ec7b164e018fc9ce2933daaa7c7ab36a2bd3fe',
  'esrgan_x4': 'ff704c30',
  'esrgan_psnr_x4': '150ff491',
  'bsrgan_x4': '5d505a0766160921e0388d76e1ddf08cb114303990f9080432bf2b1c988b1c54',
  'bsrnet_x4': 'fa633d80ff4db5a546740ae8e3baebe925fc84d3c03e3e9002493acc5e88c3ec',
  'dasr_predictor_x4': '77bc9cddafa8cb53272c9c677a9ce60fef04677c87f0e9b76f1190d5a88dfaca',
}

_ENTRIES = {
  'swinir_classical_x2': _swinir('001_classicalSR_DF2K_s64w8_SwinIR-M_x2.pth', 'bicubic, DF2K, LR patch 64', 38.42),
  'swinir_classical_x3': _swinir('001_classicalSR_DF2K_s64w8_SwinIR-M_x3.pth', 'bicubic, DF2K, LR patch 64', 34.97),
  'swinir_classical_x4': _swinir('001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth', 'bicubic, DF2K, LR patch 64', 32.92),
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
  'swinir_light_x4': _swinir('002_lightweightSR_DIV2K_s64w8_SwinIR-S_x4.pth', 'bicubic, DIV2K, LR patch 64', 32.44),
  'swinir_real_x2': _swinir('003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x2_GAN.pth', 'real-world (BSRGAN), DFO, adversarial'),
  'swinir_real_psnr_x2': _swinir(
    '003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x2_PSNR.pth', 'real-world (BSRGAN), DFO, PSNR-oriented'
  ),
  'swinir_real_x4': _swinir('003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_GAN.pth', 'real-world (BSRGAN), DFO, adversarial'),
  'swinir_real_psnr_x4': _swinir(
    '003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_PSNR.pth', 'real-world (BSRGAN), DFO, PSNR-oriented'
  ),
  'swinir_real_l_x4': _swinir(
    '003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth', 'real-world (BSRGAN), DFOWMFC, adversarial'
  ),
  'swinir_real_l_psnr_x4': _swinir(
    '003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_PSNR.pth', 'real-world (BSRGAN), DFOWMFC, PSNR-oriented'
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
  'safmn_x4': _safmn('SAFMN_DF2K_x4.pth', 'bicubic, DF2K', 32.18),
  'safmn_l_x2': _safmn('SAFMN_L_DF2K_x2.pth', 'bicubic, DF2K', 38.28),
  'safmn_l_x3': _safmn('SAFMN_L_DF2K_x3.pth', 'bicubic, DF2K', 34.80),
  'safmn_l_x4': _safmn('SAFMN_L_DF2K_x4.pth', 'bicubic, DF2K', 32.65),
  'safmn_l_real_x4': _safmn('SAFMN_L_Real_x4.pth', 'real-world'),
  # The file for x4 of the release is that of the model page under another name; hashes from one source.
  'safmn_l_real_lsdir_x2': _safmn_real(_SAFMN, 'SAFMN_L_Real_LSDIR_x2.pth'),
  'safmn_l_real_lsdir_x4': _safmn_real(_SAFMN, 'SAFMN_L_Real_LSDIR_x4.pth'),
  'safmn_l_real_lsdir_v2_x2': _safmn_real(_SAFMN_RELEASE, 'SAFMN_L_Real_LSDIR_x2-v2.pth'),
  'safmn_l_real_lsdir_v2_x4': _safmn_real(_SAFMN_RELEASE, 'SAFMN_L_Real_LSDIR_x4-v2.pth'),
  'safmn_ntire2023_x4': Entry('team15_SAFMN.pth', _SAFMN_NTIRE, 'MIT', 'bicubic, NTIRE 2023 efficient SR'),
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
  'realesrgan_x4': _realesrgan(
    'v0.1.0', 'RealESRGAN_x4plus.pth', 'real-world (Real-ESRGAN), adversarial', 'params_ema'
  ),
  'realesrnet_x4': _realesrgan(
    'v0.1.1', 'RealESRNet_x4plus.pth', 'real-world (Real-ESRGAN), PSNR-oriented', 'params_ema'
  ),
  'realesrgan_x2': _realesrgan(
    'v0.2.1', 'RealESRGAN_x2plus.pth', 'real-world (Real-ESRGAN), adversarial', 'params_ema'
  ),
  'realesrgan_anime_x4': _realesrgan(
    'v0.2.2.4', 'RealESRGAN_x4plus_anime_6B.pth', 'drawings (Real-ESRGAN), adversarial', 'params_ema'
  ),
  # Between these two lie the strengths of denoising: convert A B OUT --weights 0.5,0.5.
  'realesr_general_x4': _realesrgan(
    'v0.2.5.0', 'realesr-general-x4v3.pth', 'real-world (Real-ESRGAN), small, adversarial'
  ),
  'realesr_general_wdn_x4': _realesrgan('v0.2.5.0', 'realesr-general-wdn-x4v3.pth', 'the same, keeping noise'),
  'realesr_animevideo_x4': _realesrgan(
    'v0.2.5.0', 'realesr-animevideov3.pth', 'drawings in videos, small, adversarial'
  ),
  'realesr_animevideo_v2_x2': _realesrgan(
    'v0.2.3.0', 'RealESRGANv2-animevideo-xsx2.pth', 'drawings in videos, small, adversarial'
  ),
  'realesr_animevideo_v2_x4': _realesrgan(
    'v0.2.3.0', 'RealESRGANv2-animevideo-xsx4.pth', 'drawings in videos, small, adversarial'
  ),
  'esrgan_x4': _realesrgan('v0.1.1', 'ESRGAN_SRx4_DF2KOST_official-ff704c30.pth', 'bicubic, DF2K and OST, adversarial'),
  'esrgan_psnr_x4': Entry(
    'ESRGAN_PSNR_SRx4_DF2K_official-150ff491.pth',
    '',
    'Apache-2.0',
    'bicubic, DF2K',
    page=_drive('1swaV5iBMFfg-DL6ZyiARztbhutDCWXMM'),
    key='params',
  ),
  # The hash of BSRNet is from one source.
  'bsrgan_x4': _kair('BSRGAN.pth', 'real-world (BSRGAN), adversarial'),
  'bsrnet_x4': _kair('BSRNet.pth', 'real-world (BSRGAN), PSNR-oriented'),
  'bsrgan_x2': _kair('BSRGANx2.pth', 'real-world (BSRGAN), adversarial'),
  'realsr_dped_x4': _kair('RealSR_DPED.pth', 'real-world (RealSR), telephones, adversarial'),
  'realsr_jpeg_x4': _kair('RealSR_JPEG.pth', 'real-world (RealSR), JPEG, adversarial'),
  # All of LDL and DASR lie in folders: take the file there under its name. RRDB, SwinIR and MSRResNet share them.
  'ldl_rrdb_x4': _ldl('RealESRGAN+LDL', 'real-world (Real-ESRGAN), adversarial'),
  'ldl_rrdb_x2': _ldl('RealESRGAN+LDL_x2', 'real-world (Real-ESRGAN), adversarial'),
  'ldl_swinir_x4': _ldl('RealSwinIR+LDL', 'real-world (Real-ESRGAN), adversarial'),
  'ldl_msrresnet_x4': _ldl('RealSRGAN+LDL', 'real-world (Real-ESRGAN), adversarial'),
  'ldl_bicubic_rrdb_x4': _ldl('DF2K_RRDB+LDL', 'bicubic, DF2K, adversarial'),
  'ldl_bicubic_rrdb_x2': _ldl('DF2K_RRDB+LDL_x2', 'bicubic, DF2K, adversarial'),
  'ldl_bicubic_rrdb_div2k_x4': _ldl('DIV2K_RRDB+LDL', 'bicubic, DIV2K, adversarial'),
  'ldl_bicubic_swinir_x4': _ldl('DF2K_SwinIR+LDL', 'bicubic, DF2K, adversarial'),
  'ldl_bicubic_swinir_x2': _ldl('DF2K_SwinIR+LDL_x2', 'bicubic, DF2K, adversarial'),
  'ldl_bicubic_msrresnet_x4': _ldl('DIV2K_SRResNet+LDL', 'bicubic, DIV2K, adversarial'),
  'ldl_bicubic_msrresnet_x2': _ldl('DF2K_SRResNet+LDL_x2', 'bicubic, DF2K, adversarial'),
  # net_g.pth and net_p.pth of that folder, under these names beside each other; the hash of net_p is from one source.
  'dasr_x4': Entry('dasr_net_g.pth', '', 'Apache-2.0', 'real-world, kernels mixed for each picture', page=_DASR),
  'dasr_predictor_x4': Entry(
    'dasr_net_p.pth', '', 'Apache-2.0', 'the other half of dasr_x4, not used alone', page=_DASR
  ),
  'drct_x4': Entry('DRCT_X4.pth', '', 'MIT', 'bicubic', 33.11, page=_drive('1jw2UWAersWZecPq-c_g5RM3mDOoc_cbd')),
  'drct_l_x4': Entry('DRCT-L_X4.pth', '', 'MIT', 'bicubic', 33.37, page=_drive('1bVxvA6QFbne2se0CQJ-jyHFy94UOi3h5')),
  'drct_l_realwebphoto_x4': Entry('4xRealWebPhoto_v4_drct-l.pth', _DRCT_L_WEB, 'CC-BY-4.0', 'real-world, third party'),
}

ZOO: dict[str, Entry] = {
  name: entry._replace(sha256=_SHA256.get(name, entry.sha256)) for name, entry in _ENTRIES.items()
}
