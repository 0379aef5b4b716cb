"""Records torch.optim runs, and checks that torch goes on with what lowbit wrote.

    python record.py record      writes adamw.safetensors (a run) and adamw_state.safetensors (its state after 3 steps)
    python record.py check FILE  loads the state after 5 steps and takes the run's last two

Needs torch and safetensors; `python -m pip install torch safetensors`.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

here = Path(__file__).parent
sys.path.append(str(here / "../../../examples/python"))
from lowbit_state import load_state, save_state  # noqa: E402

STEPS, SAVED, BACK = 7, 3, 5
HYPER = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(12, 16))
        self.ln = torch.nn.Parameter(torch.randn(16))


def set_gradients(model, tensors, step):
    for name, p in model.named_parameters():
        p.grad = tensors[f"grads.{name}"][step - 1].clone()


def record():
    torch.manual_seed(1)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), **HYPER)
    tensors = {
        f"grads.{name}": torch.randn(STEPS, *p.shape) * torch.randn(p.shape).exp()
        for name, p in model.named_parameters()
    }
    for step in range(1, STEPS + 1):
        set_gradients(model, tensors, step)
        optimizer.step()
        for name, p in model.named_parameters():
            tensors[f"p.{name}.{step}"] = p.detach().clone()
        if step == SAVED:
            save_state(optimizer, here / "adamw_state.safetensors", model)
    meta = {"hyper": HYPER, "saved": SAVED, "steps": STEPS, "torch": torch.__version__}
    save_file(tensors, here / "adamw.safetensors", {"meta": json.dumps(meta)})


def check(path):
    tensors = load_file(here / "adamw.safetensors")
    model = Model()
    for name, p in model.named_parameters():
        p.data.copy_(tensors[f"p.{name}.{BACK}"])
    optimizer = torch.optim.AdamW(model.parameters(), **HYPER)
    load_state(optimizer, path, model)
    for step in range(BACK + 1, STEPS + 1):
        set_gradients(model, tensors, step)
        optimizer.step()
        for name, p in model.named_parameters():
            difference = (p - tensors[f"p.{name}.{step}"]).abs().max().item()
            print(f"step {step}, {name}: largest difference {difference / HYPER['lr']:.2e} lr")
            assert difference < 1e-3 * HYPER["lr"]
    print("torch goes on as if nothing had happened")


if sys.argv[1:] == ["record"]:
    record()
elif len(sys.argv) == 3 and sys.argv[1] == "check":
    check(sys.argv[2])
else:
    sys.exit(__doc__)
