"""Names of the layers of transformers as they were published, and as diffusers' classes have them."""

from __future__ import annotations

FLUX = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
    "double_blocks.#.img_mod.lin": "transformer_blocks.#.norm1.linear",
    "double_blocks.#.txt_mod.lin": "transformer_blocks.#.norm1_context.linear",
    "double_blocks.#.img_attn.qkv": "transformer_blocks.#.attn: to_q to_k to_v",
    "double_blocks.#.txt_attn.qkv": "transformer_blocks.#.attn: add_q_proj add_k_proj add_v_proj",
    "double_blocks.#.img_attn.proj": "transformer_blocks.#.attn.to_out.0",
    "double_blocks.#.txt_attn.proj": "transformer_blocks.#.attn.to_add_out",
    "double_blocks.#.img_attn.norm.query_norm": "transformer_blocks.#.attn.norm_q",
    "double_blocks.#.img_attn.norm.key_norm": "transformer_blocks.#.attn.norm_k",
    "double_blocks.#.txt_attn.norm.query_norm": "transformer_blocks.#.attn.norm_added_q",
    "double_blocks.#.txt_attn.norm.key_norm": "transformer_blocks.#.attn.norm_added_k",
    "double_blocks.#.img_mlp.0": "transformer_blocks.#.ff.net.0.proj",
    "double_blocks.#.img_mlp.2": "transformer_blocks.#.ff.net.2",
    "double_blocks.#.txt_mlp.0": "transformer_blocks.#.ff_context.net.0.proj",
    "double_blocks.#.txt_mlp.2": "transformer_blocks.#.ff_context.net.2",
    "single_blocks.#.modulation.lin": "single_transformer_blocks.#.norm.linear",
    "single_blocks.#.linear1": "single_transformer_blocks.#: attn.to_q attn.to_k attn.to_v proj_mlp",
    "single_blocks.#.linear2": "single_transformer_blocks.#.proj_out",
    "single_blocks.#.norm.query_norm": "single_transformer_blocks.#.attn.norm_q",
    "single_blocks.#.norm.key_norm": "single_transformer_blocks.#.attn.norm_k",
    # XLabs', whose attention processors have the number of the stream: 1 image, 2 text
    "double_blocks.#.processor.qkv1": "transformer_blocks.#.attn: to_q to_k to_v",
    "double_blocks.#.processor.qkv2": "transformer_blocks.#.attn: add_q_proj add_k_proj add_v_proj",
    "double_blocks.#.processor.proj1": "transformer_blocks.#.attn.to_out.0",
    "double_blocks.#.processor.proj2": "transformer_blocks.#.attn.to_add_out",
    "single_blocks.#.processor.qkv": "single_transformer_blocks.#.attn: to_q to_k to_v",
    "single_blocks.#.processor.proj": "single_transformer_blocks.#.proj_out",
}
SD3 = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
    "joint_blocks.#.x_block.adaLN_modulation.1": "transformer_blocks.#.norm1.linear",
    "joint_blocks.#.x_block.attn.qkv": "transformer_blocks.#.attn: to_q to_k to_v",
    "joint_blocks.#.x_block.attn.proj": "transformer_blocks.#.attn.to_out.0",
    "joint_blocks.#.x_block.attn.ln_q": "transformer_blocks.#.attn.norm_q",
    "joint_blocks.#.x_block.attn.ln_k": "transformer_blocks.#.attn.norm_k",
    "joint_blocks.#.x_block.attn2.qkv": "transformer_blocks.#.attn2: to_q to_k to_v",
    "joint_blocks.#.x_block.attn2.proj": "transformer_blocks.#.attn2.to_out.0",
    "joint_blocks.#.x_block.attn2.ln_q": "transformer_blocks.#.attn2.norm_q",
    "joint_blocks.#.x_block.attn2.ln_k": "transformer_blocks.#.attn2.norm_k",
    "joint_blocks.#.x_block.mlp.fc1": "transformer_blocks.#.ff.net.0.proj",
    "joint_blocks.#.x_block.mlp.fc2": "transformer_blocks.#.ff.net.2",
    "joint_blocks.#.context_block.adaLN_modulation.1": "transformer_blocks.#.norm1_context.linear",
    "joint_blocks.#.context_block.attn.qkv": "transformer_blocks.#.attn: add_q_proj add_k_proj add_v_proj",
    "joint_blocks.#.context_block.attn.proj": "transformer_blocks.#.attn.to_add_out",
    "joint_blocks.#.context_block.attn.ln_q": "transformer_blocks.#.attn.norm_added_q",
    "joint_blocks.#.context_block.attn.ln_k": "transformer_blocks.#.attn.norm_added_k",
    "joint_blocks.#.context_block.mlp.fc1": "transformer_blocks.#.ff_context.net.0.proj",
    "joint_blocks.#.context_block.mlp.fc2": "transformer_blocks.#.ff_context.net.2",
}
LUMINA = {
    "cap_embedder.0": "time_caption_embed.caption_embedder.0",
    "cap_embedder.1": "time_caption_embed.caption_embedder.1",
    "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
    "final_layer.adaLN_modulation.1": "norm_out.linear_1",
    "final_layer.linear": "norm_out.linear_2",
    "context_refiner.#.attention_norm1": "context_refiner.#.norm1",
    **{
        f"{stack}.#.{old}": f"{stack}.#.{new}"
        for stack in ("layers", "noise_refiner", "context_refiner")
        for old, new in {
            "attention.qkv": "attn: to_q to_k to_v", "attention.out": "attn.to_out.0",
            "attention.q_norm": "attn.norm_q", "attention.k_norm": "attn.norm_k",
            "feed_forward.w1": "feed_forward.linear_1", "feed_forward.w2": "feed_forward.linear_2",
            "feed_forward.w3": "feed_forward.linear_3", "adaLN_modulation.1": "norm1.linear",
            "attention_norm1": "norm1.norm", "attention_norm2": "norm2",
        }.items()
        if (stack, old) != ("context_refiner", "attention_norm1")
    },
}  # fmt: skip
WAN = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
    "vace_blocks.#.before_proj": "vace_blocks.#.proj_in",
    "vace_blocks.#.after_proj": "vace_blocks.#.proj_out",
    **{
        f"{stack}.#.{old}": f"{stack}.#.{new}"
        for stack in ("blocks", "vace_blocks")
        for old, new in {
            "modulation": "scale_shift_table", "norm3": "norm2", "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2",
            "cross_attn.k_img": "attn2.add_k_proj", "cross_attn.v_img": "attn2.add_v_proj",
            "cross_attn.norm_k_img": "attn2.norm_added_k",
            **{
                f"{theirs}.{name}": f"{ours}.{layer}"
                for theirs, ours in (("self_attn", "attn1"), ("cross_attn", "attn2"))
                for name, layer in {
                    "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k",
                }.items()
            },
        }.items()
    },
}  # fmt: skip

Z_IMAGE = {
    "x_embedder": "all_x_embedder.2-1",
    "final_layer.linear": "all_final_layer.2-1.linear",
    "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
    **{
        f"{stack}.#.attention.{old}": f"{stack}.#.attention{new}"
        for stack in ("layers", "noise_refiner", "context_refiner")
        for old, new in {
            "qkv": ": to_q to_k to_v", "out": ".to_out.0", "q_norm": ".norm_q", "k_norm": ".norm_k",
        }.items()
    },
}  # fmt: skip
FLUX2 = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
    "double_blocks.#.img_attn.qkv": "transformer_blocks.#.attn: to_q to_k to_v",
    "double_blocks.#.txt_attn.qkv": "transformer_blocks.#.attn: add_q_proj add_k_proj add_v_proj",
    "double_blocks.#.img_attn.proj": "transformer_blocks.#.attn.to_out.0",
    "double_blocks.#.txt_attn.proj": "transformer_blocks.#.attn.to_add_out",
    "double_blocks.#.img_attn.norm.query_norm": "transformer_blocks.#.attn.norm_q",
    "double_blocks.#.img_attn.norm.key_norm": "transformer_blocks.#.attn.norm_k",
    "double_blocks.#.txt_attn.norm.query_norm": "transformer_blocks.#.attn.norm_added_q",
    "double_blocks.#.txt_attn.norm.key_norm": "transformer_blocks.#.attn.norm_added_k",
    "double_blocks.#.img_mlp.0": "transformer_blocks.#.ff.linear_in",
    "double_blocks.#.img_mlp.2": "transformer_blocks.#.ff.linear_out",
    "double_blocks.#.txt_mlp.0": "transformer_blocks.#.ff_context.linear_in",
    "double_blocks.#.txt_mlp.2": "transformer_blocks.#.ff_context.linear_out",
    "single_blocks.#.linear1": "single_transformer_blocks.#.attn.to_qkv_mlp_proj",
    "single_blocks.#.linear2": "single_transformer_blocks.#.attn.to_out",
    "single_blocks.#.norm.query_norm": "single_transformer_blocks.#.attn.norm_q",
    "single_blocks.#.norm.key_norm": "single_transformer_blocks.#.attn.norm_k",
}

QWEN21 = {"transformer_blocks.#.img_mlp.gate_up": "transformer_blocks.#.img_mlp: gate_layer proj"}
HUNYUAN = {
    "img_in.proj": "x_embedder.proj",
    "time_in.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "time_in.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.mlp.0": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.mlp.2": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
    "txt_in.input_embedder": "context_embedder.proj_in",
    "txt_in.t_embedder.mlp.0": "context_embedder.time_text_embed.timestep_embedder.linear_1",
    "txt_in.t_embedder.mlp.2": "context_embedder.time_text_embed.timestep_embedder.linear_2",
    "txt_in.c_embedder.linear_1": "context_embedder.time_text_embed.text_embedder.linear_1",
    "txt_in.c_embedder.linear_2": "context_embedder.time_text_embed.text_embedder.linear_2",
    **{
        f"txt_in.individual_token_refiner.blocks.#.{old}": f"context_embedder.token_refiner.refiner_blocks.#.{new}"
        for old, new in {
            "self_attn_qkv": "attn: to_q to_k to_v", "self_attn_proj": "attn.to_out.0", "mlp.fc1": "ff.net.0.proj",
            "mlp.fc2": "ff.net.2", "adaLN_modulation.1": "norm_out.linear", "norm1": "norm1", "norm2": "norm2",
        }.items()
    },
    **{
        f"double_blocks.#.{stream}{old}": f"transformer_blocks.#.{new}"
        for stream, old, new in (
            ("img", "_mod.linear", "norm1.linear"), ("txt", "_mod.linear", "norm1_context.linear"),
            ("img", "_attn_qkv", "attn: to_q to_k to_v"), ("img", "_attn.qkv", "attn: to_q to_k to_v"),
            ("txt", "_attn_qkv", "attn: add_q_proj add_k_proj add_v_proj"),
            ("txt", "_attn.qkv", "attn: add_q_proj add_k_proj add_v_proj"),
            ("img", "_attn_proj", "attn.to_out.0"), ("img", "_attn.proj", "attn.to_out.0"),
            ("txt", "_attn_proj", "attn.to_add_out"), ("txt", "_attn.proj", "attn.to_add_out"),
            ("img", "_attn_q_norm", "attn.norm_q"), ("img", "_attn_k_norm", "attn.norm_k"),
            ("txt", "_attn_q_norm", "attn.norm_added_q"), ("txt", "_attn_k_norm", "attn.norm_added_k"),
            ("img", "_mlp.fc1", "ff.net.0.proj"), ("img", "_mlp.fc2", "ff.net.2"),
            ("txt", "_mlp.fc1", "ff_context.net.0.proj"), ("txt", "_mlp.fc2", "ff_context.net.2"),
        )
    },
    "single_blocks.#.modulation.linear": "single_transformer_blocks.#.norm.linear",
    "single_blocks.#.linear1": "single_transformer_blocks.#: attn.to_q attn.to_k attn.to_v proj_mlp",
    "single_blocks.#.linear2": "single_transformer_blocks.#.proj_out",
    "single_blocks.#.q_norm": "single_transformer_blocks.#.attn.norm_q",
    "single_blocks.#.k_norm": "single_transformer_blocks.#.attn.norm_k",
}  # fmt: skip
"""HunyuanVideo's, as published and as ComfyUI spells them."""
LTX = {
    "patchify_proj": "proj_in",
    "adaln_single.linear": "time_embed.linear",
    "adaln_single.emb.timestep_embedder.linear_1": "time_embed.emb.timestep_embedder.linear_1",
    "adaln_single.emb.timestep_embedder.linear_2": "time_embed.emb.timestep_embedder.linear_2",
    **{
        f"transformer_blocks.#.attn{n}.{x}_norm": f"transformer_blocks.#.attn{n}.norm_{x}" for n in (1, 2) for x in "qk"
    },
}
"""LTX-Video's, where they are not diffusers'."""

TRANSFORMERS = {
    "context_embedder.proj_in": HUNYUAN,
    "time_embed.emb.timestep_embedder.linear_1": LTX,
    "single_transformer_blocks.0.proj_mlp": FLUX,
    "transformer_blocks.0.norm1_context.linear": SD3,
    "noise_refiner.0.attn.to_q": LUMINA,
    "condition_embedder.time_proj": WAN,
    "noise_refiner.0.attention.to_q": Z_IMAGE,
    "double_stream_modulation_img.linear": FLUX2,
    "txt_in.text_norm": QWEN21,
}
"""Published names of each family, by a layer that it has; Flux's, which are Chroma's as well, after HunyuanVideo's.

# is a number; "a: b c" is a.b and a.c; ~ is swapped."""
