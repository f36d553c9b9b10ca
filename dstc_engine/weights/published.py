"""The published weights that presets may name: what each is, where from, and on what terms.

Addresses are those of timm's and open_clip's tables, of guided-diffusion's README, and of the
official script's. Sizes and sums are those that publishers give (OpenAI in CLIP's addresses), or
that several independent users of a file noted alike (ADM, DINO B, DINOv2, ArcFace, VGG); where
there is neither, size is 0 and the sum None, and what the first fetch finds is recorded (trust on
first use).
"""

from __future__ import annotations

from dstc_engine.weights.record import Weights

_IMAGENET_TERMS = "trained on ImageNet, whose images are for non-commercial research"
_META = "https://dl.fbaipublicfiles.com"
_HUB = "https://huggingface.co"


def _drive(file_id: str) -> str:
    return f"https://drive.google.com/uc?export=download&id={file_id}"


def _adm(name: str, file: str, about: str, sha256: str | None = None, size: int = 0) -> Weights:
    url = f"https://openaipublic.blob.core.windows.net/diffusion/jul-2021/{file}"
    return Weights(
        name=name,
        kind="prior",
        about=about,
        upstream="openai/guided-diffusion",
        file=file,
        source=url,
        url=url,
        sha256=sha256,
        size=size,
        licence="MIT",
        conditions=_IMAGENET_TERMS,
    )


_PRIORS = (
    _adm(
        "adm-imagenet256",
        "256x256_diffusion_uncond.pt",
        "ADM, ImageNet at 256 px, unconditional",
        "a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
        2_211_383_297,
    ),
    _adm(
        "adm-imagenet512",
        "512x512_diffusion.pt",
        "ADM, ImageNet at 512 px, class-conditional",
    ),
    Weights(
        name="adm-ffhq256",
        kind="prior",
        about="ADM, FFHQ faces at 256 px, unconditional (P2 weighting)",
        upstream="jychoi118/P2-weighting",
        file="ffhq_10m.pt",
        source="Google Drive, linked from github.com/cyclomon/DiffuseIT",
        url=_drive("1-oY7JjRtET4QP3PIWg3ilxAo4VfjCa3J"),
        sha256=None,
        licence="MIT (code of its authors)",
        conditions="trained on FFHQ, CC BY-NC-SA 4.0: non-commercial, same licence",
    ),
)


def _vit(
    name: str,
    upstream: str,
    about: str,
    url: str,
    licence: str = "Apache-2.0",
    *,
    file: str = "",
    sha256: str | None = None,
    size: int = 0,
    unread: tuple[str, ...] = (),
    conditions: str = "",
) -> Weights:
    return Weights(
        name=name,
        kind="vit",
        about=about,
        upstream=upstream,
        file=file or url.rsplit("/", 1)[1],
        source=url,
        url=url,
        sha256=sha256,
        size=size,
        licence=licence,
        conditions=conditions,
        unread=unread,
    )


def _dino(
    name: str, upstream: str, about: str, file: str, sha256: str | None = None, size: int = 0
) -> Weights:
    url = f"{_META}/dino/{file}/{file}.pth"
    return _vit(name, f"{upstream}.dino", about, url, sha256=sha256, size=size)


def _dino_v2(letter: str, upstream: str, about: str, sha256: str, size: int) -> Weights:
    short = f"dinov2_vit{letter}14"
    return _vit(
        f"dinov2-vit{letter}14",
        f"{upstream}.lvd142m",
        about,
        f"{_META}/dinov2/{short}/{short}_pretrain.pth",
        sha256=sha256,
        size=size,
        unread=("mask_token",),  # stands for hidden patches, in training alone
    )


def _dino_v3(letter: str, upstream: str, about: str) -> Weights:
    return _vit(
        f"dinov3-vit{letter}16",
        f"{upstream}.lvd1689m",
        about,
        f"{_HUB}/timm/{upstream}.lvd1689m/resolve/main/model.safetensors",
        "DINOv3 License",
        file=f"{upstream}.lvd1689m.safetensors",
        conditions="Meta's own licence: read it before use; it must go along with copies",
    )


_VITS = (
    _dino("dino-vits8", "vit_small_patch8_224", "DINO ViT-S/8", "dino_deitsmall8_pretrain"),
    _dino("dino-vits16", "vit_small_patch16_224", "DINO ViT-S/16", "dino_deitsmall16_pretrain"),
    _dino(
        "dino-vitb8",
        "vit_base_patch8_224",
        "DINO ViT-B/8",
        "dino_vitbase8_pretrain",
        "575f0efc4838938314afa09897a62ed2b87919928b5edcd133abb907328995eb",
        343_279_349,
    ),
    _dino(
        "dino-vitb16",
        "vit_base_patch16_224",
        "DINO ViT-B/16",
        "dino_vitbase16_pretrain",
        "bf34ad0f424b9029b593e8dc3ed553bf26e88bcba0d32bf3e62a6209cb64c85e",
        343_242_485,
    ),
    _dino_v2(
        "s",
        "vit_small_patch14_dinov2",
        "DINOv2 ViT-S/14, an option",
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
        88_283_115,
    ),
    _dino_v2(
        "b",
        "vit_base_patch14_dinov2",
        "DINOv2 ViT-B/14, an option",
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
        346_378_731,
    ),
    _dino_v3("s", "vit_small_patch16_dinov3", "DINOv3 ViT-S/16, an option"),
    _dino_v3("b", "vit_base_patch16_dinov3", "DINOv3 ViT-B/16, an option"),
)

# Of OpenAI's archives alone: three numbers that say what the shapes say too (`convert` compares
# them), and the text tower's causal mask, which every CLIP makes for itself.
_OPENAI_UNREAD = ("input_resolution", "context_length", "vocab_size", "*attn_mask")


def _openai_clip(name: str, model: str, sha256: str, size: int, about: str = "") -> Weights:
    url = f"https://openaipublic.azureedge.net/clip/models/{sha256}/{model}.pt"
    return Weights(
        name=name,
        kind="clip",
        about=about or f"OpenAI's CLIP {model}, one of the ensemble",
        upstream=f"{model}-quickgelu/openai",
        file=f"{model}.pt",
        source=url,
        url=url,
        sha256=sha256,
        size=size,
        licence="MIT",
        unread=_OPENAI_UNREAD,
    )


def _open_clip(name: str, upstream: str, repository: str) -> Weights:
    url = f"{_HUB}/laion/{repository}/resolve/main/open_clip_pytorch_model.bin"
    return Weights(
        name=name,
        kind="clip",
        about=f"open_clip's {upstream.replace('/', ', ')}, an option",
        upstream=upstream,
        file=f"{repository}.bin",
        source=url,
        url=url,
        sha256=None,
        licence="MIT",
    )


_CLIPS = (
    _openai_clip(
        "clip-rn50",
        "RN50",
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
        255_827_503,
    ),
    _openai_clip(
        "clip-rn50x4",
        "RN50x4",
        "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
        421_854_225,
    ),
    _openai_clip(
        "clip-rn50x16",
        "RN50x16",
        "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
        661_125_706,
    ),
    _openai_clip(
        "clip-vit-b-32",
        "ViT-B-32",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        353_976_522,
    ),
    _openai_clip(
        "clip-vit-b-16",
        "ViT-B-16",
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
        350_837_078,
    ),
    _openai_clip(
        "clip-vit-l-14",
        "ViT-L-14",
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        932_768_134,
        "OpenAI's CLIP ViT-L-14, an option",
    ),
    _open_clip(
        "clip-vit-b-32-laion2b", "ViT-B-32/laion2b_s34b_b79k", "CLIP-ViT-B-32-laion2B-s34B-b79K"
    ),
    _open_clip(
        "clip-vit-b-16-laion2b", "ViT-B-16/laion2b_s34b_b88k", "CLIP-ViT-B-16-laion2B-s34B-b88K"
    ),
    _open_clip(
        "clip-vit-b-16-datacomp",
        "ViT-B-16/datacomp_xl_s13b_b90k",
        "CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
    ),
    _open_clip(
        "clip-vit-l-14-datacomp",
        "ViT-L-14/datacomp_xl_s13b_b90k",
        "CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
    ),
    _open_clip(
        "clip-convnext-base-w-laion2b",
        "convnext_base_w/laion2b_s13b_b82k",
        "CLIP-convnext_base_w-laion2B-s13B-b82K",
    ),
)

_OTHERS = (
    Weights(
        name="arcface-ir-se50",
        kind="face",
        about="ArcFace IR-SE50, who a face is",
        upstream="TreB1eN/InsightFace_Pytorch",
        file="model_ir_se50.pth",
        # The same file under another name: the project's own links are to cloud drives.
        source="github.com/xinntao/facexlib, recognition_arcface_ir_se50.pth of its release v0.1.0",
        url="https://github.com/xinntao/facexlib/releases/download/v0.1.0/"
        "recognition_arcface_ir_se50.pth",
        sha256="a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
        size=175_367_323,
        licence="MIT",
        conditions="trained on MS-Celeb-1M, which its publisher has withdrawn: for research",
    ),
    Weights(
        name="vgg19",
        kind="vgg",
        about="VGG-19, ImageNet classification; for the vgg losses",
        upstream="torchvision VGG19_Weights.IMAGENET1K_V1",
        file="vgg19-dcbb9e9d.pth",
        source="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        # The publisher gives the first eight digits, in the file's name.
        sha256="dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        size=574_673_361,
        licence="BSD-3-Clause",
        conditions=_IMAGENET_TERMS,
        unread=("classifier.*",),  # which no loss looks through: five sixths of the file
    ),
)

PUBLISHED = (*_PRIORS, *_VITS, *_CLIPS, *_OTHERS)
