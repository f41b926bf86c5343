"""Both architectures: shapes, causality, the cache, and comparison with independent implementations."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from model.attention import KVCache, attend, attend_by_blocks
from model.config import ModelConfig
from model.gpt import rotary_angles, rotate
from model.network import build

GPT = ModelConfig(vocab_size=97, context=24, layers=2, heads=2, width=32, hidden=64)
LOOPED = ModelConfig(vocab_size=97, context=24, layers=2, heads=2, width=32, hidden=64, loops=2)
CLASSIC = ModelConfig(architecture="classic", vocab_size=82, context=24, layers=2, heads=4, width=32)
ALL = pytest.mark.parametrize("config", [GPT, LOOPED, CLASSIC], ids=["gpt", "looped", "classic"])


def network_and_ids(config: ModelConfig, batch: int = 2) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    network = build(config).eval().requires_grad_(False)
    for parameter in network.parameters():  # norms of 1 and small weights would hide mistakes
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return network, torch.randint(0, config.vocab_size, (batch, config.context))


@pytest.mark.parametrize(("characters", "parameters"), [(82, 211_922), (65, 209_729)])
def test_classic_has_exactly_the_original_number_of_parameters(characters: int, parameters: int) -> None:
    config = ModelConfig(architecture="classic", vocab_size=characters, context=32, layers=4, heads=4, width=64)
    assert sum(p.numel() for p in build(config).parameters()) == parameters


@ALL
def test_shapes_of_the_config_are_those_of_the_weights(config: ModelConfig) -> None:
    assert {name: tuple(w.shape) for name, w in build(config).state_dict().items()} == config.shapes()


@ALL
def test_cached_logits_equal_uncached_at_every_split(config: ModelConfig) -> None:
    network, ids = network_and_ids(config)
    whole = network(ids)
    for split in range(1, config.context):
        cache = KVCache(config, batch_size=2)
        parts = torch.cat((network(ids[:, :split], cache), network(ids[:, split:], cache)), dim=1)
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
        assert cache.length == config.context


@ALL
def test_one_symbol_at_a_time_equals_all_at_once_also_after_clearing_the_cache(config: ModelConfig) -> None:
    network, ids = network_and_ids(config)
    cache = KVCache(config, batch_size=2)
    for _ in range(2):
        steps = torch.cat([network(ids[:, t : t + 1], cache) for t in range(config.context)], dim=1)
        torch.testing.assert_close(steps, network(ids), atol=1e-5, rtol=0)
        cache.clear()


@ALL
def test_no_position_sees_the_future(config: ModelConfig) -> None:
    network, ids = network_and_ids(config)
    changed = ids.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % config.vocab_size
    torch.testing.assert_close(network(changed)[:, :10], network(ids)[:, :10], atol=1e-6, rtol=0)
    assert not torch.allclose(network(changed)[:, 10:], network(ids)[:, 10:])


@ALL
def test_every_position_sees_its_whole_past(config: ModelConfig) -> None:
    network, ids = network_and_ids(config)
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % config.vocab_size
    assert ((network(changed) - network(ids)).abs().amax(-1) > 1e-7).all()


@ALL
def test_more_symbols_than_the_context_are_refused(config: ModelConfig) -> None:
    network, ids = network_and_ids(config)
    with pytest.raises(ValueError, match=r"^25 symbols exceed the context \(24\)$"):
        network(torch.cat((ids, ids[:, :1]), dim=1))
    cache = KVCache(config, batch_size=2)
    network(ids, cache)
    with pytest.raises(ValueError, match=r"^1 symbols after 24 in the cache exceed the context \(24\)$"):
        network(ids[:, :1], cache)


@ALL
def test_attention_probabilities_are_causal_and_sum_to_one(config: ModelConfig) -> None:
    network, ids = network_and_ids(config)
    for layer in range(config.layers * config.loops):
        chances = network.attention(ids, layer)
        assert chances.shape == (2, config.heads, config.context, config.context)
        torch.testing.assert_close(chances.sum(-1), torch.ones(chances.shape[:-1]))
        assert chances.triu(1).abs().max() == 0


@pytest.mark.parametrize(("new", "total"), [(1, 7), (3, 7), (7, 7)])
def test_attend_is_a_plain_softmax(new: int, total: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, new, 16), torch.randn(2, 3, total, 16), torch.randn(2, 3, total, 16)
    expected = torch.empty(2, 3, new, 16)
    for t in range(new):
        seen = total - new + t + 1
        scores = (k[:, :, :seen] * q[:, :, t : t + 1]).sum(-1) * 0.25
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        expected[:, :, t] = (weights[..., None] * v[:, :, :seen]).sum(2)
    torch.testing.assert_close(attend(q, k, v, scale=0.25), expected, atol=1e-5, rtol=1e-5)


def test_classic_scales_its_scores_by_the_full_width() -> None:
    network, ids = network_and_ids(CLASSIC)
    attention = network.blocks[0].attention
    x = network.blocks[0].attention_norm(network.features(ids, None, 0))
    q, k = (x @ w.T for w in attention.qkv.weight.chunk(3)[:2])  # (B, T, C)
    scores = q[0, :, :8] @ k[0, :, :8].T / math.sqrt(CLASSIC.width)  # the first head, D = 8
    scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(network.attention(ids, 0)[0, 0], scores.softmax(-1))


def test_rotary_scores_depend_only_on_the_distance() -> None:
    angles = rotary_angles(GPT)
    q, k = torch.randn(16), torch.randn(16)

    def score(i: int, j: int) -> float:
        return float(rotate(q, angles[i].cos(), angles[i].sin()) @ rotate(k, angles[j].cos(), angles[j].sin()))

    assert score(3, 1) == pytest.approx(score(20, 18), abs=1e-5)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)


@pytest.mark.parametrize("T", [1, 63, 64, 65, 200])
def test_attention_by_blocks_is_attention(T: int) -> None:
    generator = torch.Generator().manual_seed(T)
    results = []
    q, k, v, weight = torch.randn(4, 2, 3, T, 16, generator=generator)
    for attention in (attend, attend_by_blocks):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        y = attention(*leaves, 0.25)
        results.append([y, *torch.autograd.grad((y * weight).sum(), leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [GPT, LOOPED], ids=["gpt", "looped"])
def test_first_loss_is_that_of_a_uniform_guess(config: ModelConfig) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 97, (8, 24))
    loss = F.cross_entropy(build(config)(ids).flatten(0, 1), ids.roll(1).flatten())
    assert float(loss.detach()) == pytest.approx(math.log(97), abs=0.1)


@pytest.mark.parametrize("config", [GPT, CLASSIC], ids=["gpt", "classic"])
def test_overfits_one_batch(config: ModelConfig) -> None:
    torch.manual_seed(0)
    network = build(config)
    ids = torch.randint(0, config.vocab_size, (4, 17))
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(150):
        loss = F.cross_entropy(network(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.1


def test_dropout_is_active_only_in_training() -> None:
    torch.manual_seed(0)
    network = build(ModelConfig(context=24, layers=2, heads=2, width=32, dropout=0.5))
    ids = torch.randint(0, 97, (2, 24))
    assert not torch.equal(network(ids), network(ids))
    network.eval()
    assert torch.equal(network(ids), network(ids))


def test_gpt_is_the_qwen3_of_transformers() -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    network, ids = network_and_ids(GPT)
    qwen3 = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=97,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=24,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            attention_bias=False,
        )
    ).eval()
    ours = network.state_dict()
    renamed = {"model.embed_tokens.weight": ours["embedding.weight"], "lm_head.weight": ours["embedding.weight"]}
    renamed["model.norm.weight"] = ours["norm.weight"]
    for layer in range(2):
        a, b = f"blocks.{layer}", f"model.layers.{layer}"
        for name, part in zip("qkv", ours[f"{a}.attention.qkv.weight"].chunk(3), strict=True):
            renamed[f"{b}.self_attn.{name}_proj.weight"] = part
        for name, part in zip(("gate", "up"), ours[f"{a}.mlp.gate_up.weight"].chunk(2), strict=True):
            renamed[f"{b}.mlp.{name}_proj.weight"] = part
        renamed[f"{b}.self_attn.o_proj.weight"] = ours[f"{a}.attention.out.weight"]
        renamed[f"{b}.self_attn.q_norm.weight"] = ours[f"{a}.attention.q_norm.weight"]
        renamed[f"{b}.self_attn.k_norm.weight"] = ours[f"{a}.attention.k_norm.weight"]
        renamed[f"{b}.mlp.down_proj.weight"] = ours[f"{a}.mlp.down.weight"]
        renamed[f"{b}.input_layernorm.weight"] = ours[f"{a}.attention_norm.weight"]
        renamed[f"{b}.post_attention_layernorm.weight"] = ours[f"{a}.mlp_norm.weight"]
    qwen3.load_state_dict(renamed)
    torch.testing.assert_close(network(ids), qwen3(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "gtp"}, "architecture ('gtp') must be one of gpt, classic; did you mean gpt?"),
        ({"width": 48, "heads": 3}, "width (48) must be a multiple of 32 for the exported 8-bit weights"),
        (
            {"width": 64, "heads": 2, "hidden": 100},
            "hidden (100) must be a multiple of 32 for the exported 8-bit weights",
        ),
        ({"width": 100, "heads": 6}, "width (100) must be a multiple of heads (6)"),
        (
            {"width": 64, "heads": 8},
            "width / heads (8) must be a multiple of 16 for the exported graphs; with width 64 use another number "
            "of heads",
        ),
        ({"layers": 0}, "layers (0) must be a whole number from 1 to 256"),
        ({"context": 2.5}, "context (2.5) must be a whole number from 1 to 65536"),
        ({"vocab_size": 8193}, "vocab_size (8193) must be a whole number from 1 to 8192"),
        ({"heads": True}, "heads (True) must be a whole number from 1 to 256"),
        ({"hidden": 0}, "hidden (0) must be a whole number from 1 to 65536, or None for the default"),
        ({"dropout": 1.0}, "dropout (1.0) must be a number from 0 up to, not including, 1"),
        ({"dropout": float("nan")}, "dropout (nan) must be a number from 0 up to, not including, 1"),
        (
            {"context": 65536, "layers": 16, "heads": 16, "width": 256},
            "context (65536) would take 2,048 MiB of memory for each story; the limit is 256: lower it, or layers, "
            "loops or width",
        ),
        (
            {"architecture": "classic", "width": 32, "heads": 4, "loops": 2},
            "loops (2) must be 1 for the classic architecture",
        ),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        ModelConfig(**fields)
    assert str(error.value) == message


def test_attention_by_blocks_drops_single_weights() -> None:
    """With unit vectors as values the output is the weights. Each is 0, or its old value divided by the kept share."""
    torch.manual_seed(5)
    q, k = torch.randn(2, 1, 2, 96, 16)
    v = torch.eye(96).expand(1, 2, 96, 96)
    whole = attend_by_blocks(q, k, v, 0.25)
    dropped = attend_by_blocks(q, k, v, 0.25, dropout=0.25)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    assert kept[whole > 0].float().mean() == pytest.approx(0.75, abs=0.02)
