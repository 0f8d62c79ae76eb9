"""Vision transformers, run by the package `transformers` one block at a time.

The modules are those of the package, and so are the names of the weights. No code of a model's
folder is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mammo_sae.encoders.networks.network import FeatureMap, Network
from mammo_sae.encoders.plans.plan import HEAD, POOLED, block_number
from mammo_sae.encoders.plans.vit import KINDS, WEIGHTS, plan
from mammo_sae.errors import InputError, first_line

if TYPE_CHECKING:
    from mammo_sae.encoders.description import EncoderDescription

# Keys of a configuration that say how the file was written, not what the network is.
WRITTEN = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path")
# The token that replaces patches in pretraining. It is not used later.
MASK = "mask_token"
# Numbers of the patches, which older versions of the package saved. They are no weights.
NUMBERS = "position_ids"
NUMBER_TYPES = ("F64", "F32", "F16", "BF16")  # of weights that are not quantised


class VisionTransformer(Network):
    """A vision transformer of `transformers`."""

    def __init__(self, description: EncoderDescription) -> None:
        super().__init__(description)
        self.plan = plan(description.architecture)
        self.kind = KINDS[self.plan.kind]
        model, config = library(self.plan.kind)
        settings = config.from_dict(dict(description.parameters["config"]))
        # The kernel is chosen here, so that it does not depend on the installation.
        settings._attn_implementation = "sdpa"
        self.model = model(settings, **self.kind.options)
        _drop_mask(self.model)

    def begin(self, x: Tensor) -> FeatureMap:
        """Turn normalised images [n, 3, H, W] into the map before the first layer."""
        options = {"interpolate_pos_encoding": True} if self.kind.interpolates else {}
        with self.fast_products():
            tokens = self.model.embeddings(x, **options)
            if self.kind.before:
                tokens = getattr(self.model, self.kind.before)(tokens)
        rows, columns = (edge // self.plan.patch for edge in x.shape[2:])
        return self._map(tokens, rows, columns)

    def step(self, name: str, before: FeatureMap) -> FeatureMap:
        """Compute the map of layer `name` from the map before it, which is not changed."""
        rows, columns = before.cells.shape[2:]
        tokens = _tokens(before)
        with self.fast_products():
            if name == HEAD:
                after = self._norm(tokens)
            else:
                after = self._blocks[block_number(name)](
                    tokens, attention_mask=None, **self._positions(before)
                )
        return self._map(after.to(tokens.dtype), rows, columns)

    def pool(self, head: FeatureMap) -> Tensor:
        """Return the features [n, c]: mean of the cells, class token, or attention pooling."""
        if self.description.pooling == "cls":
            assert head.prefix is not None  # a network with a class token
            return head.prefix[:, 0].float()
        if self.description.pooling == "attention":
            with self.fast_products():
                found: Tensor = getattr(self.model, self.kind.attention)(_tokens(head))
            return found.float()
        return super().pool(head)

    def modules_of(self, name: str | None) -> Iterator[nn.Module]:
        """Yield the modules that compute layer `name`, or what comes before all layers (None)."""
        if name is None:
            yield self.model.embeddings
            if self.kind.before:
                yield getattr(self.model, self.kind.before)
        elif name == HEAD:
            yield self._norm
        elif name != POOLED:
            yield self._blocks[block_number(name)]
        elif self.description.pooling == "attention":
            yield getattr(self.model, self.kind.attention)

    def train(self, mode: bool = True) -> VisionTransformer:
        """Leave dropout and random positions off, so that fine-tuning draws nothing at random."""
        return super().train(False)

    @property
    def _blocks(self) -> Any:
        return self.model.get_submodule(self.kind.blocks)

    @property
    def _norm(self) -> nn.Module:
        return self.model.get_submodule(self.kind.norm)

    def _positions(self, before: FeatureMap) -> dict[str, Any]:
        """Return what a block needs to know of the positions of the patches."""
        if not self.kind.rotary:
            return {}
        rows, columns = before.cells.shape[2:]
        # Only its shape, type and device are used.
        image = before.cells.new_empty(1).expand(
            1, 3, rows * self.plan.patch, columns * self.plan.patch
        )
        return {"position_embeddings": getattr(self.model, self.kind.rotary)(image)}

    def _map(self, tokens: Tensor, rows: int, columns: int) -> FeatureMap:
        """Turn tokens [n, t + rows * columns, c] into a map."""
        prefix = self.plan.prefix
        cells = tokens[:, prefix:].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        return FeatureMap(cells, tokens[:, :prefix] if prefix else None)


NETWORK = VisionTransformer


def _tokens(of: FeatureMap) -> Tensor:
    """Return the tokens [n, t + cells, c] of a map."""
    cells = of.cells.permute(0, 2, 3, 1).flatten(1, 2)
    return cells if of.prefix is None else torch.cat([of.prefix, cells], dim=1)


def _drop_mask(model: nn.Module) -> None:
    embeddings = model.get_submodule("embeddings")
    if getattr(embeddings, MASK, None) is not None:
        setattr(embeddings, MASK, None)


def library(kind: str) -> tuple[Any, Any]:
    """Return the classes of the model and of the configuration of a kind.

    Raises
    ------
    InputError
        If `transformers` is not installed, or its version does not have this kind.
    """
    try:
        import transformers
    except ImportError:
        raise InputError(
            "the package transformers, which runs vision transformers, is not installed; install "
            "it with pip install --constraint envs/constraints.txt transformers"
        ) from None
    said: Any = transformers.utils.logging
    said.set_verbosity_error()
    said.disable_progress_bar()
    row = KINDS[kind]
    try:
        module = import_module(f"transformers.models.{row.module}")
        return getattr(module, row.model), getattr(module, row.config)
    except (ImportError, AttributeError):
        raise InputError(
            f"transformers {transformers.__version__} has no models of kind {kind}; install the "
            "version of envs/constraints.txt"
        ) from None


def version() -> str:
    """Return the version of `transformers` on this machine."""
    import transformers

    return str(transformers.__version__)


def read_weights(folder: Path, kind: str, config: dict[str, Any]) -> dict[str, Tensor]:
    """Read a model's weights as `VisionTransformer` has them, in float32.

    Only ``model.safetensors`` is read. The names of older versions of the package are converted by
    the package itself.

    Raises
    ------
    InputError
        If weights are missing, of another shape, quantised or not finite, or if the network that
        the configuration describes would not use weights of the file.
    """
    where = f"folder {folder}"
    model, settings = library(kind)
    try:
        loaded, report = model.from_pretrained(
            folder,
            config=settings.from_dict(written_out(config)),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            # Other shapes are refused below, with their names.
            ignore_mismatched_sizes=True,
            **KINDS[kind].options,
        )
    except Exception as error:
        raise InputError(
            f"{where}: the weights can't be read ({first_line(error)}); fetch the folder again"
        ) from None
    _drop_mask(loaded)
    for what, key in (("lacks", "missing_keys"), ("has other shapes of", "mismatched_keys")):
        # A mismatch is a tuple of the name and both shapes.
        names = sorted(str(one[0] if isinstance(one, tuple) else one) for one in report[key])
        names = [name for name in names if not name.endswith(MASK)]
        if names:
            raise InputError(
                f"{where}: {model.__name__} {what} {', '.join(names[:3])}; the weights are of "
                "another model than the configuration"
            )
    deeper = [name for name in report["unexpected_keys"] if _is_beyond(name, config, kind)]
    if deeper:
        raise InputError(
            f"{where}: the weights have {min(deeper)}, but the configuration has "
            f"{_depth(config, kind)} blocks; the weights are of another model than the "
            "configuration"
        )
    unused = [name for name in report["unexpected_keys"] if _is_inside(name, kind)]
    if unused:
        raise InputError(
            f"{where}: the weights have {min(unused)}, which {model.__name__} of this "
            "configuration does not use; the weights are of another model than the configuration"
        )
    _check_types(folder / WEIGHTS)
    state = {f"model.{name}": value for name, value in loaded.state_dict().items()}
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise InputError(f"{where}: NaN or infinity in {name}; fetch the weights again")
    return state


def _depth(config: dict[str, Any], kind: str) -> int:
    return int(config.get("num_hidden_layers", KINDS[kind].defaults["num_hidden_layers"]))


def _is_beyond(name: str, config: dict[str, Any], kind: str) -> bool:
    """Return whether a weight that was left out is of a block that the configuration lacks.

    Weights of a classifier, or of the part for text, may be left out.
    """
    numbers = [int(part) for part in name.split(".") if part.isdecimal()]
    return not name.startswith("text_model.") and max(numbers, default=-1) >= _depth(config, kind)


def _is_inside(name: str, kind: str) -> bool:
    """Return whether a weight that was left out is of a part that the network runs.

    Without it, the network would give other features than the published one.
    """
    row = KINDS[kind]
    parts = [part for part in ("embeddings", row.before, row.blocks, row.norm) if part]
    return not name.endswith((MASK, NUMBERS)) and name.startswith(tuple(f"{p}." for p in parts))


def _check_types(path: Path) -> None:
    """Refuse weights that are whole numbers or 8-bit numbers, whose scales are not read."""
    with safe_open(path, "pt") as file:
        for name in sorted(file.keys()):
            kind = file.get_slice(name).get_dtype()
            if kind not in NUMBER_TYPES and not name.endswith(NUMBERS):
                raise InputError(
                    f"{path}: {name} has the type {kind}, and quantised weights can't be read; "
                    "fetch the model in float32, float16 or bfloat16"
                )


def written_out(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without the keys that say how it was written."""
    return {key: value for key, value in config.items() if key not in WRITTEN}
