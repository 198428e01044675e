"""The structures of `kernels.c`, field by field."""

from ctypes import Structure, c_float, c_int32, c_int64, c_void_p


class Matrix(Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("scale_O", c_void_p),
        ("sums_O", c_void_p),
        ("bias_O", c_void_p),
        ("layout", c_int32),
        ("num_outputs", c_int32),
        ("num_inputs", c_int32),
        ("padded_inputs", c_int32),
        ("panel_outputs", c_int32),
    )


class Block(Structure):
    _fields_ = (
        *((name, Matrix) for name in ("query", "key", "value", "out", "gate", "up", "down")),
        ("attention_norm_D", c_void_p),
        ("mlp_norm_D", c_void_p),
        ("query_norm_K", c_void_p),
        ("key_norm_K", c_void_p),
        ("attention_eps", c_float),
        ("mlp_eps", c_float),
        ("head_eps", c_float),
        ("scale", c_float),
        ("num_heads", c_int32),
        ("num_groups", c_int32),
        ("head_dim", c_int32),
        ("look_back", c_int32),
    )


class Pass(Structure):
    _fields_ = (
        ("positions_N", c_void_p),
        ("slots_N", c_void_p),
        ("table_N", c_void_p),
        ("tables", c_void_p),
        ("cos_NE", c_void_p),
        ("sin_NE", c_void_p),
        ("num_slots", c_int64),
        ("num_rows", c_int32),
        ("num_pairs", c_int32),
        ("block_size", c_int32),
        ("dtype", c_int32),
        ("num_threads", c_int32),
    )


class Prompt(Structure):
    _fields_ = (
        ("q_THK", c_void_p),
        ("k_GSK", c_void_p),
        ("v_GSK", c_void_p),
        ("out_THK", c_void_p),
        ("packed", c_void_p),
        ("num_tokens", c_int64),
        ("num_keys", c_int64),
        ("group_stride", c_int64),
        ("look_back", c_int64),
        ("scale", c_float),
        ("num_heads", c_int32),
        ("num_groups", c_int32),
        ("head_dim", c_int32),
        ("num_threads", c_int32),
    )
