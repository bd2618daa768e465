"""Trains a small PEFT adapter on SmolLM2, so that what fusing loses can be measured on one that was trained.

--model is a dense checkpoint (`bumblebee convert "$(./demo --where)" DIR -d --dtype float32`), --text what it learns, by
default the Apache licence as Debian ships it; 100 steps of 128 tokens take two minutes on two cores.
"""
import argparse
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, default=Path("/usr/share/common-licenses/Apache-2.0"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rank", type=int, default=8)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    torch.cuda.is_current_stream_capturing = lambda: False  # transformers asks even where there is no device to ask
    tokens = AutoTokenizer.from_pretrained(arguments.model)(arguments.text.read_text(), return_tensors="pt").input_ids[0]
    pieces = [piece[None] for piece in tokens.split(128) if len(piece) > 16]
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation="eager")
    model = get_peft_model(model, LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules=TARGETS,
                                             task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    for step in range(arguments.steps):
        piece = pieces[step % len(pieces)]
        loss = model(input_ids=piece, labels=piece).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step + 1 == arguments.steps:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    model.save_pretrained(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
