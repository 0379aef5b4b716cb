"""The state of a PyTorch optimizer as a safetensors file that `lowbit convert` reads, and back.

For torch.optim, bitsandbytes, torchao and lpmm. Needs torch and safetensors. See docs/interchange.md.
"""

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save_state(optimizer, path, model=None):
    """Saves a state dict; with the model, parameters have names instead of numbers."""
    state = optimizer.state_dict()
    params = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = {}
    for index, values in state["state"].items():
        flatten(f"state.{index}", values, tensors)
    metadata = {
        "optimizer": type(optimizer).__name__,
        "shapes": json.dumps({str(i): list(p.shape) for i, p in enumerate(params)}),
        "param_groups": json.dumps(state["param_groups"], default=plain),
    }
    if model is not None:
        metadata["names"] = json.dumps(names_of(params, model))
    save_file(tensors, path, metadata)


def load_state(optimizer, path, model=None):
    """Loads what save_state or `lowbit convert --to ...` wrote; hyperparameters stay the optimizer's own."""
    with safe_open(path, "pt") as file:
        names = json.loads(file.metadata()["names"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    params = [p for group in optimizer.param_groups for p in group["params"]]
    own = names_of(params, model) if model is not None else names
    state = optimizer.state_dict()
    library = type(optimizer).__module__.split(".")[0]
    found = {name: {} for name in names}
    for key, tensor in tensors.items():
        # A name may begin with another one and a dot: the longest counts.
        name = max((n for n in names if key.startswith(f"state.{n}.")), key=len)
        found[name][key[len(f"state.{name}."):]] = tensor
    state["state"] = {
        i: rebuild(found[name], params[i], library) for i, name in enumerate(own)
    }
    optimizer.load_state_dict(state)


def names_of(params, model):
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for p in params]


def flatten(key, value, tensors):
    """Puts every tensor of nested values into one dict, by its path."""
    if hasattr(value, "tensor_attrs"):  # torchao's subclasses
        for part in value.tensor_attrs:
            flatten(f"{key}.{part}", getattr(value, part), tensors)
    elif isinstance(value, torch.Tensor):
        tensors[key] = value.detach().cpu().contiguous().clone()
    elif isinstance(value, dict):
        for part, inner in value.items():
            flatten(f"{key}.{part}", inner, tensors)
    elif isinstance(value, (list, tuple)):
        for part, inner in enumerate(value):
            flatten(f"{key}.{part}", inner, tensors)
    elif isinstance(value, (bool, int, float)):
        tensors[key] = torch.tensor(value)


def rebuild(values, param, library):
    """The state of one parameter as its library keeps it."""
    if library == "bitsandbytes":
        return {k: int(v) if k == "step" else v for k, v in values.items()}
    if library == "torchao":
        return rebuild_torchao(values, param)
    if library == "lpmm":
        return rebuild_lpmm(values, param)
    return values


def rebuild_torchao(values, param):
    from torchao.optim.subclass_4bit import OptimState4bit
    from torchao.optim.subclass_8bit import OptimState8bit
    from torchao.optim.subclass_fp8 import OptimStateFp8

    state = {}
    for name in {key.split(".")[0] for key in values}:
        if name in values:
            state[name] = values[name]
            continue
        codes, scale = values[f"{name}.codes"], values[f"{name}.scale"]
        qmap = values.get(f"{name}.qmap")
        signed = name == "exp_avg"
        if qmap is None:
            state[name] = OptimStateFp8(codes, scale, dtype=param.dtype)
        elif len(qmap) == 16:
            state[name] = OptimState4bit(codes, scale, qmap, signed, param.shape, dtype=param.dtype)
        else:
            state[name] = OptimState8bit(codes, scale, qmap, signed, dtype=param.dtype)
    return state


def rebuild_lpmm(values, param):
    state = {k: v for k, v in values.items() if "." not in k}
    for name in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
        qmap = values.get(f"{name}_qstate.qmap")
        overhead = {}
        if qmap is not None:
            prefix = f"{name}_qstate.overhead."
            overhead = {"dtype": param.dtype, "stride": param.stride(), "dim": param.dim()}
            overhead["max1"] = values.get(f"{prefix}max1")
            axes = [k for k in values if k.startswith(f"{prefix}max_dims.")]
            if axes:
                overhead["max_dims"] = [values[f"{prefix}max_dims.{i}"] for i in range(len(axes))]
                overhead["scaled_shape"] = param.shape
            else:
                overhead["scaled_shape"] = torch.Size((len(overhead["max1"]), 128))
        if name in state:
            state[f"{name}_qstate"] = {"enable": qmap is not None, "overhead": overhead, "qmap": qmap}
    return state


def plain(value):
    """What JSON does not know: tensors that hold a learning rate."""
    return value.item() if isinstance(value, torch.Tensor) else None
