"""Cross-entropy of a causal LM at the positions that are learnt, without ever holding the logits of a whole batch."""

from typing import Any

LOGITS = 1 << 28  # bytes of logits that exist at a time: 512 positions of Gemma's 262,144 words in bfloat16
TILE = 4096  # words at a time: what a processor's cache holds (348 positions in bfloat16: 0.55 s, with all words at once 0.78)


def is_plain_head(model: Any) -> bool:
    """Whether logits are nothing but the last hidden state times a frozen matrix (no bias, scale or soft-cap).

    Asked of the model itself: three tokens through it, with its own head and with ours.
    """
    import torch

    head, body = model.get_output_embeddings(), getattr(model, model.base_model_prefix, None)
    weight = getattr(head, "weight", None)
    if type(head) is not torch.nn.Linear or head.bias is not None or weight.requires_grad or body in (None, model):
        return False
    ids = torch.arange(3, device=weight.device)[None] % weight.shape[0]
    training = model.training
    with torch.no_grad():
        model.eval()
        theirs = model(input_ids=ids, use_cache=False).logits.float()
        ours = (body(input_ids=ids, use_cache=False).last_hidden_state @ weight.T).float()
    model.train(training)
    return bool(torch.allclose(theirs, ours, rtol=1e-2, atol=1e-2 * float(theirs.abs().max())))


def token_losses(model: Any, ids: Any, mask: Any, weights: Any, plain_head: bool) -> tuple[Any, Any]:
    """(weighted sum of the losses, with gradient; loss of each learnt token in reading order, without).

    ids, mask, weights: [rows, tokens]. A token at position t is predicted from t - 1; the first has no loss.
    """
    import torch

    learnt = weights[:, 1:] > 0
    targets, weight = ids[:, 1:][learnt], weights[:, 1:][learnt]
    if plain_head:
        body = getattr(model, model.base_model_prefix)
        hidden = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1][learnt]
        return chunked(hidden, model.get_output_embeddings().weight, targets, weight)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1][learnt].float()
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return (losses * weight).sum(), losses.detach()


def chunked(hidden: Any, head: Any, targets: Any, weight: Any) -> tuple[Any, Any]:
    """Cross-entropy of hidden [n, d] under a frozen head [vocabulary, d]; its gradient is computed on the way forward."""
    import torch

    class Chunked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden):
            gradient, losses = torch.empty_like(hidden), torch.empty(len(targets), device=hidden.device)
            step = max(1, LOGITS // (len(head) * head.element_size()))
            for k in range(0, len(targets), step):
                part = slice(k, k + step)
                rows = hidden[part].to(head.dtype)
                logits, norm = _logits(rows, head)
                losses[part] = norm - logits.gather(1, targets[part, None])[:, 0]
                if ctx.needs_input_grad[0]:
                    gradient[part] = _gradient(logits, norm, head, targets[part], weight[part])
            ctx.save_for_backward(gradient)
            ctx.mark_non_differentiable(losses)
            return (losses * weight).sum(), losses

        @staticmethod
        def backward(ctx, upstream, _):
            (gradient,) = ctx.saved_tensors
            return gradient * upstream.to(gradient.dtype)

    return Chunked.apply(hidden)


def _logits(rows: Any, head: Any) -> tuple[Any, Any]:
    """Logits [n, vocabulary] in the dtype of the head, and the log of the sum of their exp [n] in float32."""
    import torch

    logits, norms = rows.new_empty(len(rows), len(head)), []
    for words in _tiles(head):
        tile = rows @ head[words].T
        logits[:, words] = tile
        norms.append(tile.float().logsumexp(-1))
    return logits, torch.stack(norms).logsumexp(0)


def _gradient(logits: Any, norm: Any, head: Any, targets: Any, weight: Any) -> Any:
    """Of the weighted losses by the hidden states [n, d], in float32: (softmax minus one at the target) times the head."""
    import torch

    total = torch.zeros(len(logits), head.shape[1], device=head.device)
    for words in _tiles(head):
        tile = logits[:, words].float().sub_(norm[:, None]).exp_()
        here = torch.nonzero((targets >= words.start) & (targets < words.stop))[:, 0]
        tile[here, targets[here] - words.start] -= 1
        total += tile.mul_(weight[:, None]).to(head.dtype) @ head[words]
    return total


def _tiles(head: Any) -> list[slice]:
    """Words of the vocabulary at a time; more of them on a GPU, where each tile's launches cost more than its cache saves."""
    size = TILE if head.device.type == "cpu" else 8 * TILE
    return [slice(k, k + size) for k in range(0, len(head), size)]
