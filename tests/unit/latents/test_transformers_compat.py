"""A model whose class was exchanged has the new behaviour and is saved under names that the new class reads."""

import torch
from transformers import BertConfig, BertModel

from emoji_ldm.latents.transformers_compat import change_class
from emoji_ldm.latents.zero_padded import ZeroPaddedBert


def test_weights_survive_the_change_and_a_save_and_the_new_forward_applies(tmp_path):
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(settings).save_pretrained(tmp_path / "stock")
    model = BertModel.from_pretrained(tmp_path / "stock")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change_class(model, ZeroPaddedBert)
    assert type(model) is ZeroPaddedBert
    model.save_pretrained(tmp_path / "changed")
    again = ZeroPaddedBert.from_pretrained(tmp_path / "changed")
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())
    mask = torch.tensor([[1, 1, 0, 0]])
    states = again.eval()(input_ids=torch.ones(1, 4, dtype=torch.long), attention_mask=mask).last_hidden_state
    assert states[:, :2].abs().sum() > 0
    assert states[:, 2:].abs().sum() == 0
