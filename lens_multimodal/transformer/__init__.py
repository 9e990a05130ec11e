"""The one room that knows TransformerLens: hook names, weights, model classes and decoder families.

- `families`: what differs between decoder families, read off the model.
- `residual_stream`: what neurons add to the residual stream, and what the model predicts from it; `norms` supports it.
- `model_class`: what differs between `HookedTransformer` (TransformerLens 3.x; removed in 4.0) and `TransformerBridge`
  (3.x and 4.x), in or out of compatibility mode.
- `hook_names`, `weights`, `sizes`: the same names for both.
- `accepted_models`, `loading`, `hooked_transformer`, `to_hugging_face`: from Hugging Face and back.
- `running`, `checked_hooks`, `self_check`: forward passes, generation, and hooks that must run.
- `which_model`, `bare_twin`, `bare_hook_points`, `twin_comparison`, `watched_modules`: where no hook is on a bridge,
  passes run without its wrappers.

TransformerLens accepts many hooks that never run: unknown names in the 3.x bridge, switched-off hook points in both
classes. So everything here that reads or edits activations checks that the name exists *and* that its hook ran.
"""

from lens_multimodal.transformer.accepted_models import (
    as_loaded,
    as_transformer_lens,
    check_model,
    check_version,
    move,
    untrained,
    wrap,
)
from lens_multimodal.transformer.checked_hooks import (
    HookDidNotFire,
    HookFunction,
    NamedHook,
    capture,
    check_hook_names,
    fired_hooks,
    keep,
    observe,
)
from lens_multimodal.transformer.families import facts
from lens_multimodal.transformer.hook_names import (
    EMBED,
    FINAL_NORM_SCALE,
    attn_in,
    attn_out,
    attn_pattern,
    attn_scores,
    head_v,
    head_z,
    mlp_out,
    mlp_post,
    mlp_pre,
    resid_post,
    resid_pre,
)
from lens_multimodal.transformer.losses_and_penalties import count_as_before, count_words_alone
from lens_multimodal.transformer.model_class import (
    attention_is_left_to_hugging_face,
    class_name,
    embedding_module,
    is_bridge,
    weight_processing,
)
from lens_multimodal.transformer.passes import Passes, passes_of
from lens_multimodal.transformer.residual_stream import (
    embeddings,
    entering,
    final_norm,
    mlp_norm,
    read,
    rows_that_write,
    unembed,
    unembed_back,
    unembedding,
    written,
    written_scale,
)
from lens_multimodal.transformer.running import end_tokens, generate, logits_of
from lens_multimodal.transformer.sampling import GREEDY, Sampling
from lens_multimodal.transformer.sizes import ModelShape, device, rows_at_once, shape
from lens_multimodal.transformer.weights import (
    b_u,
    config,
    w_e,
    w_gate,
    w_in,
    w_out,
    w_u,
)
from lens_multimodal.transformer.which_model import forget_twin, running_alike, running_on, why_hooked
