"""Cross-entropy of a causal LM at the positions that are learnt, without ever holding the logits of a whole batch."""

from typing import Any

CHUNK = 128  # positions whose logits exist at a time: 128 x 262,144 x 4 bytes = 134 MB for Gemma


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
            gradient = torch.empty_like(hidden)
            losses = torch.empty(len(targets), device=hidden.device)
            for k in range(0, len(targets), CHUNK):
                part = slice(k, k + CHUNK)
                logits = (hidden[part].to(head.dtype) @ head.T).float()
                wanted = logits.gather(1, targets[part, None])[:, 0]
                most = logits.amax(-1)
                total = logits.sub_(most[:, None]).exp_().sum(-1)
                losses[part] = most + total.log() - wanted
                if ctx.needs_input_grad[0]:  # softmax minus one at the target; in place, for memory is what this waits for
                    logits.mul_((weight[part] / total)[:, None])
                    logits[torch.arange(len(logits), device=logits.device), targets[part]] -= weight[part]
                    gradient[part] = (logits.to(head.dtype) @ head).to(gradient.dtype)
            ctx.save_for_backward(gradient)
            ctx.mark_non_differentiable(losses)
            return (losses * weight).sum(), losses

        @staticmethod
        def backward(ctx, upstream, _):
            (gradient,) = ctx.saved_tensors
            return gradient * upstream.to(gradient.dtype)

    return Chunked.apply(hidden)
