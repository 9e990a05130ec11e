"""The one package that knows TransformerLens: hook names, weights, and what differs between generations.

Two model classes can be host to an image, told apart by structure, never by a class that may not exist:

- `HookedTransformer` (TransformerLens 3.x; removed in 4.0),
- `TransformerBridge` (3.x and 4.x), in or out of compatibility mode.

TransformerLens accepts many hooks that never run (unknown names in the 3.x bridge, switched-off hook points
in both). So everything here that reads or edits activations checks that the name exists *and* that it fired.
"""

from lens_multimodal.transformer.checked_hooks import (
    HookDidNotFire,
    HookFunction,
    NamedHook,
    capture,
    check_hook_names,
    fired_hooks,
    observe,
    observe_hook,
)
from lens_multimodal.transformer.forward import generate, logits_of
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
from lens_multimodal.transformer.properties import (
    HostShape,
    attention_is_left_to_hugging_face,
    device,
    embedding_module,
    is_bridge,
    parallel_blocks,
    prepends_bos,
    shape,
    weight_processing,
)
from lens_multimodal.transformer.supported import OLDEST, TOO_NEW, as_loaded, check_model, check_version, move, wrap
from lens_multimodal.transformer.weights import (
    b_u,
    config,
    final_norm_centres,
    final_norm_weight,
    mlp_norm,
    read_out,
    w_e,
    w_gate,
    w_in,
    w_out,
    w_u,
)

__all__ = [
    "EMBED",
    "FINAL_NORM_SCALE",
    "OLDEST",
    "TOO_NEW",
    "HookDidNotFire",
    "HookFunction",
    "HostShape",
    "NamedHook",
    "as_loaded",
    "attention_is_left_to_hugging_face",
    "attn_in",
    "attn_out",
    "attn_pattern",
    "attn_scores",
    "b_u",
    "capture",
    "check_hook_names",
    "check_model",
    "check_version",
    "config",
    "device",
    "embedding_module",
    "final_norm_centres",
    "final_norm_weight",
    "fired_hooks",
    "generate",
    "head_v",
    "head_z",
    "is_bridge",
    "logits_of",
    "mlp_norm",
    "mlp_out",
    "mlp_post",
    "mlp_pre",
    "move",
    "observe",
    "observe_hook",
    "parallel_blocks",
    "prepends_bos",
    "read_out",
    "resid_post",
    "resid_pre",
    "shape",
    "w_e",
    "w_gate",
    "w_in",
    "w_out",
    "w_u",
    "weight_processing",
    "wrap",
]
