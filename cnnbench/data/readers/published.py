"""Facts of the data sets that are the same everywhere, and where their files are published.

MD5 sums and addresses are those of torchvision's lists; those of MNIST's unpacked files stand in
many public scripts. For Fashion-MNIST, whose mirror there has no encryption, its authors' own
repository comes first. Means and standard deviations are those of the
whole training part; where none stand here, they are computed from it when it is read.
"""

from __future__ import annotations

import string
from functools import partial

from cnnbench.data.readers.cifar import CIFAR10_BATCHES, CIFAR100_BATCHES, decode_cifar
from cnnbench.data.readers.idx import EMNIST_NAMES, decode_emnist, decode_idx
from cnnbench.data.readers.sources import Facts, Published, PublishedFile

_IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _idx_files(*files: tuple[str, int]) -> tuple[PublishedFile, ...]:
    return tuple(
        PublishedFile(f"{name}.gz", md5, num_bytes)
        for name, (md5, num_bytes) in zip(_IDX_NAMES, files, strict=True)
    )


def _idx_layouts(folder: str) -> tuple[tuple[str, ...], ...]:
    return (
        tuple(f"{folder}/{name}.gz" for name in _IDX_NAMES),
        tuple(f"{folder}/{name}" for name in _IDX_NAMES),
    )


_DIGIT_NAMES = tuple("0123456789")

DIGITS = Facts(
    num_classes=10,
    in_channels=1,
    image_size=8,
    class_names=_DIGIT_NAMES,
    mean=(0.3053,),
    std=(0.3759,),
    train_counts=(142, 146, 142, 146, 145, 146, 145, 143, 139, 144),
    test_counts=(36, 36, 35, 37, 36, 36, 36, 36, 35, 36),
    part_sha256=(
        "747d2ba83216e772702cc99d2524a365dd8d008328f1b42954988745ea1f6274",
        "f21a6925da0887c00576b783797b9f1f0d88c63de2cf9cbd34643e60f5534797",
        "b6bc5c20b006856194890fe425c1573a9beb7db8d2f2ed2f04235b0f8c9bdeea",
        "f4389c15b4ca62999962fa9f569af7d0bcd2bd50d102029eb54a7f1953af5bb4",
    ),
)

FASHION_MNIST = Facts(
    num_classes=10,
    in_channels=1,
    image_size=28,
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    mean=(0.2860,),
    std=(0.3530,),
    train_counts=(6000,) * 10,
    test_counts=(1000,) * 10,
    part_sha256=(
        "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "e3245b63f7c40d1c8b652835f19744d970c1613b40ddac6bcfc87b9c46e16a0b",
        "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "d51d859896c55775b9e9e219b77ff03bcec1b6ac322f313544dc3f9e7bc94fae",
    ),
)
FASHION_MNIST_FILES = Published(
    folder="FashionMNIST/raw",
    files=_idx_files(
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
        ("25c81989df183df01b3e8a0aad5dffbe", 29_515),
        ("bef4ecab320f06d8554ea6380940ec79", 4_422_102),
        ("bb300cfdad3c16e7a12a480ee83cd310", 5_148),
    ),
    mirrors=(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    layouts=_idx_layouts("FashionMNIST/raw"),
    decode=decode_idx,
    system_folder="fashion-mnist",
    debian_package="dataset-fashion-mnist",
)

MNIST = Facts(
    num_classes=10,
    in_channels=1,
    image_size=28,
    class_names=_DIGIT_NAMES,
    mean=(0.1307,),
    std=(0.3081,),
    train_counts=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    test_counts=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    file_md5=dict(
        zip(
            _IDX_NAMES,
            (
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
            strict=True,
        )
    ),
)
MNIST_FILES = Published(
    folder="MNIST/raw",
    files=_idx_files(
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
        ("d53e105ee54ea40749a09fcbcd1e9432", 28_881),
        ("9fb629c4189551a2d022fa330f9573f3", 1_648_877),
        ("ec29112dd5afa0611ce80d1b7f02629c", 4_542),
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    layouts=_idx_layouts("MNIST/raw"),
    decode=decode_idx,
)

_KMNIST_MD5 = (
    "bdb82020997e1d708af4cf47b453dcf7",
    "e144d726b3acfaa3e44228e80efcd344",
    "5c965bf0a639b31b8f53240b1b52f4d7",
    "7320c461ea6c1c855c0b718fb2a4b134",
)
KMNIST = Facts(
    num_classes=10,
    in_channels=1,
    image_size=28,
    class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    train_counts=(6000,) * 10,
    test_counts=(1000,) * 10,
    # Its authors give sums of the packed files alone.
    file_md5={f"{name}.gz": md5 for name, md5 in zip(_IDX_NAMES, _KMNIST_MD5, strict=True)},
)
KMNIST_FILES = Published(
    folder="KMNIST/raw",
    files=_idx_files(
        *zip(_KMNIST_MD5, (18_165_135, 29_497, 3_041_136, 5_120), strict=True),
    ),
    mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
    layouts=_idx_layouts("KMNIST/raw"),
    decode=decode_idx,
)

# Where a small letter looks like its capital, "balanced" has one class for both.
_UNLIKE_CAPITALS = "abdefghnqrt"
EMNIST = {
    "letters": Facts(
        num_classes=26,
        in_channels=1,
        image_size=28,
        class_names=tuple(string.ascii_lowercase),
        train_counts=(4800,) * 26,
        test_counts=(800,) * 26,
    ),
    "balanced": Facts(
        num_classes=47,
        in_channels=1,
        image_size=28,
        class_names=(*_DIGIT_NAMES, *string.ascii_uppercase, *_UNLIKE_CAPITALS),
        train_counts=(2400,) * 47,
        test_counts=(400,) * 47,
    ),
}
EMNIST_FILES = Published(
    folder="EMNIST/raw",
    files=(PublishedFile("gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e", 561_753_746),),
    mirrors=("https://biometrics.nist.gov/cs_links/EMNIST/",),
    layouts=(
        tuple(f"EMNIST/raw/{name}" for name in EMNIST_NAMES),
        tuple(f"EMNIST/raw/{name}.gz" for name in EMNIST_NAMES),
        ("EMNIST/raw/gzip.zip",),
    ),
    decode=decode_emnist,
)

CIFAR10 = Facts(
    num_classes=10,
    in_channels=3,
    image_size=32,
    class_names=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    train_counts=(5000,) * 10,
    test_counts=(1000,) * 10,
    file_md5=dict(
        zip(
            CIFAR10_BATCHES.names,
            (
                "c99cafc152244af753f735de768cd75f",
                "d4bba439e000b95fd0a9bffe97cbabec",
                "54ebc095f3ab1f0389bbae665268c751",
                "634d18415352ddfa80567beed471001a",
                "482c414d41f54cd18b22e5b47cb7c3cb",
                "40351d587109b95175f43aff81a1287e",
            ),
            strict=True,
        )
    ),
)
CIFAR10_FILES = Published(
    folder="",
    files=(
        PublishedFile(CIFAR10_BATCHES.archive, "c58f30108f718f92721af3b95e74349a", 170_498_071),
    ),
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    layouts=CIFAR10_BATCHES.layouts,
    decode=partial(decode_cifar, CIFAR10_BATCHES),
)

_CIFAR100_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach "
    "couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster "
    "house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree "
    "motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear "
    "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket "
    "rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip "
    "turtle wardrobe whale willow_tree wolf woman worm "
)
CIFAR100 = Facts(
    num_classes=100,
    in_channels=3,
    image_size=32,
    class_names=tuple(_CIFAR100_NAMES.split()),
    train_counts=(500,) * 100,
    test_counts=(100,) * 100,
    file_md5={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
)
CIFAR100_FILES = Published(
    folder="",
    files=(
        PublishedFile(CIFAR100_BATCHES.archive, "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437),
    ),
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    layouts=CIFAR100_BATCHES.layouts,
    decode=partial(decode_cifar, CIFAR100_BATCHES),
)
