"""Chunked gated delta rule for training: a triangular solve in place of a loop over 64 rows.

Per head and token, with state S (d_k, d_v), decay a = exp(g) and write strength beta:

    S_t = a_t S_{t-1} + k_t u_t^T,   u_t = beta_t (v_t - a_t S_{t-1}^T k_t),   o_t = S_t^T q_t

Inside a chunk with c = cumsum(g) this is (I + A) U = beta (V - e^c K S_0), where
A[t, s] = beta_t e^(c_t - c_s) k_t.k_s for s < t; chunks follow each other through S_0.
"""

import torch
from torch import Tensor

CHUNK = 64


def chunk_gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    use_qk_l2norm_in_kernel: bool = False,
    **_unused: object,
) -> tuple[Tensor, None]:
    """Same meaning as transformers' function of this name, without an initial or final state.

    Args:
        query: (batch, n_tokens, n_heads, d_k); n_tokens a multiple of 64.
        key: as query.
        value: (batch, n_tokens, n_heads, d_v).
        g: (batch, n_tokens, n_heads), the log decay, at most 0.
        beta: (batch, n_tokens, n_heads), the write strength.
        use_qk_l2norm_in_kernel: scale queries and keys to length one first.

    Returns:
        The output (batch, n_tokens, n_heads, d_v) and no state.
    """
    dtype = value.dtype
    with torch.autocast(query.device.type, enabled=False):
        if key.shape[2] != value.shape[2]:
            repeats = value.shape[2] // key.shape[2]
            query, key = (x.repeat_interleave(repeats, dim=2) for x in (query, key))
        if use_qk_l2norm_in_kernel:
            query, key = (
                x.float() * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + 1e-6)
                for x in (query, key)
            )
        # (batch, n_heads, n_chunks, CHUNK, ...)
        query, key, value, g, beta = (
            x.float().transpose(1, 2).unflatten(2, (-1, CHUNK))
            for x in (query, key, value, g, beta)
        )
        query = query * query.shape[-1] ** -0.5
        log_decay = g.cumsum(-1)
        beta = beta[..., None]
        decay = log_decay.exp()[..., None]
        gap = log_decay[..., :, None] - log_decay[..., None, :]
        causal = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=g.device).tril()
        between = gap.masked_fill(~causal, float("-inf")).exp()

        system = ((beta * key) @ key.transpose(-1, -2) * between).tril(-1)
        right = torch.cat([beta * value, beta * decay * key], dim=-1)
        solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        writes, reads = solved.split([value.shape[-1], key.shape[-1]], dim=-1)

        inside = query @ key.transpose(-1, -2) * between
        query_decayed = query * decay
        to_end = (log_decay[..., -1:] - log_decay).exp()[..., None] * key
        state = value.new_zeros(*value.shape[:2], key.shape[-1], value.shape[-1])
        outputs = []
        for i in range(value.shape[2]):
            update = writes[:, :, i] - reads[:, :, i] @ state
            outputs.append(query_decayed[:, :, i] @ state + inside[:, :, i] @ update)
            state = state * decay[:, :, i, -1:] + to_end[:, :, i].transpose(-1, -2) @ update
        output = torch.stack(outputs, dim=2).flatten(2, 3).transpose(1, 2)
    return output.to(dtype), None
